import '@patternfly/react-core/dist/styles/base.css'
import '@patternfly/patternfly/patternfly-charts.css'
import './words'
import './style.css'
import { QueryClientProvider } from '@tanstack/react-query'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { BrowserRouter } from 'react-router-dom'
import { queries } from './api/client'
import { App } from './app'
import { Notices } from './parts/dialogs'
import { Session } from './session'

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <BrowserRouter future={{ v7_startTransition: true, v7_relativeSplatPath: true }}>
        <Notices><Session><App /></Session></Notices>
      </BrowserRouter>
    </QueryClientProvider>
  </StrictMode>,
)
