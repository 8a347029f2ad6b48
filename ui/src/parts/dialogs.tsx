// Questions before something is done, and what is said afterwards.
import {
  Alert, AlertActionCloseButton, AlertGroup, Button, Checkbox, Form, FormGroup, Modal, ModalBody, ModalFooter, ModalHeader, TextInput,
} from '@patternfly/react-core'
import { createContext, useCallback, useContext, useId, useState, type ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import { ProblemForm } from './forms'
import { ProblemAlert } from './page'

interface ConfirmProps {
  title: string
  /** What the button says: the verb, never "OK". */
  confirm: string
  /** Destroys something. */
  danger?: boolean
  /** Must be typed first, for what cannot be undone. */
  typed?: string
  /** Must be ticked first. */
  understood?: string
  disabled?: boolean
  wide?: boolean
  children?: ReactNode
  /** Does it. While it works the dialog waits; when it fails the dialog says why and stays. */
  onConfirm: () => Promise<unknown>
  onClose: () => void
}

export function Confirm({ title, confirm, danger, typed, understood, disabled, wide, children, onConfirm, onClose }: ConfirmProps) {
  const { t } = useTranslation()
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState<unknown>()
  const [text, setText] = useState('')
  const [ticked, setTicked] = useState(false)
  const id = useId()
  const go = async () => {
    setBusy(true)
    setError(undefined)
    try {
      await onConfirm()
      onClose()
    } catch (e) {
      setError(e)
      setBusy(false)
    }
  }
  const ready = !disabled && (!typed || text === typed) && (!understood || ticked)
  return (
    <Modal isOpen variant={wide ? 'large' : 'small'} onClose={busy ? undefined : onClose} aria-labelledby={id}>
      <ModalHeader title={title} labelId={id} titleIconVariant={danger ? 'warning' : undefined} />
      <ModalBody>
        {error !== undefined && <ProblemAlert error={error} />}
        {children}
        {typed && (
          <Form onSubmit={e => { e.preventDefault(); if (ready) void go() }}>
            <FormGroup label={t('confirm.type', { name: typed })} fieldId={`${id}-name`}>
              <TextInput id={`${id}-name`} value={text} onChange={(_, v) => setText(v)} autoComplete="off" spellCheck={false} />
            </FormGroup>
          </Form>
        )}
        {understood && <Checkbox id={`${id}-understood`} label={understood} isChecked={ticked} onChange={(_, v) => setTicked(v)} />}
      </ModalBody>
      <ModalFooter>
        <Button variant={danger ? 'danger' : 'primary'} isDisabled={!ready || busy} isLoading={busy} onClick={() => void go()}>{confirm}</Button>
        <Button variant="link" isDisabled={busy} onClick={onClose}>{t('common.cancel')}</Button>
      </ModalFooter>
    </Modal>
  )
}

interface FormDialogProps {
  title: string
  /** What the button says. */
  submit: string
  error: unknown
  busy: boolean
  disabled?: boolean
  wide?: boolean
  children: ReactNode
  onSubmit: () => void
  onClose: () => void
}

/** A form in a dialog. It closes when its owner takes it away. */
export function FormDialog({ title, submit, error, busy, disabled, wide, children, onSubmit, onClose }: FormDialogProps) {
  const { t } = useTranslation()
  const id = useId()
  return (
    <Modal isOpen variant={wide ? 'medium' : 'small'} onClose={onClose} aria-labelledby={id}>
      <ModalHeader title={title} labelId={id} />
      <ModalBody><ProblemForm id={`${id}-form`} error={error} onSubmit={onSubmit}>{children}</ProblemForm></ModalBody>
      <ModalFooter>
        <Button type="submit" form={`${id}-form`} isLoading={busy} isDisabled={busy || disabled}>{submit}</Button>
        <Button variant="link" onClick={onClose}>{t('common.cancel')}</Button>
      </ModalFooter>
    </Modal>
  )
}

interface Notice {
  id: number
  text: string
}

const Say = createContext<(text: string) => void>(() => {})

/** `const say = useSay(); say(t('…saved'))`: shown for some seconds and read aloud. */
export const useSay = () => useContext(Say)

let notices = 0

export function Notices({ children }: { children: ReactNode }) {
  const { t } = useTranslation()
  const [shown, setShown] = useState<Notice[]>([])
  const drop = (id: number) => setShown(old => old.filter(n => n.id !== id))
  const say = useCallback((text: string) => setShown(old => [...old.slice(-3), { id: notices++, text }]), [])
  return (
    <Say value={say}>
      {children}
      <AlertGroup isToast isLiveRegion aria-label={t('common.notices')}>
        {shown.map(n => (
          <Alert key={n.id} variant="success" title={n.text} timeout={5000} onTimeout={() => drop(n.id)}
            actionClose={<AlertActionCloseButton title={n.text} onClose={() => drop(n.id)} />} />
        ))}
      </AlertGroup>
    </Say>
  )
}
