// Fields of forms. What the appliance finds wrong with a field is shown at that field, everything else above the form.
import {
  Alert, Button, Checkbox, Form, Label, LabelGroup, SearchInput, FormGroup, FormHelperText, FormSelect, FormSelectOption, HelperText, HelperTextItem, NumberInput, TextArea, TextInput,
} from '@patternfly/react-core'
import { createContext, useContext, useEffect, useId, useRef, useState, type FormEvent, type ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import { Problem } from '../api/client'
import type { Violation } from '../api/schema'
import { ProblemAlert, sentence } from './page'

const Problems = createContext<Problem | undefined>(undefined)

/** Shows at the fields within what was found wrong with them elsewhere. */
export const FieldProblems = ({ violations, children }: { violations: Violation[]; children: ReactNode }) =>
  <Problems value={new Problem(422, 'invalid', '', undefined, violations)}>{children}</Problems>

/** Whether something was found wrong with a field below this path. */
export const useProblemBelow = (path: string) => useContext(Problems)?.violations.some(v => v.field === path || v.field.startsWith(`${path}.`) || v.field.startsWith(`${path}[`)) ?? false

/** What was found wrong with something that is more than one field. */
export function ProblemBelow({ path }: { path: string }) {
  const problem = useContext(Problems)?.violations.find(v => v.field === path || v.field.startsWith(`${path}[`))
  return problem ? <HelperText className="problem" tabIndex={-1}><HelperTextItem variant="error">{sentence(problem.message)}</HelperTextItem></HelperText> : null
}

interface FormProps {
  error: unknown
  onSubmit: () => void
  children: ReactNode
  id?: string
}

/** A form that shows what went wrong, and moves the focus to the first field that has to be changed. */
export function ProblemForm({ error, onSubmit, children, id }: FormProps) {
  const form = useRef<HTMLFormElement>(null)
  useEffect(() => {
    if (!error) return
    const first = (selector: string) => form.current?.querySelector<HTMLElement>(selector)
    const wrong = first('[aria-invalid=true]') ?? first('.problem')
    wrong?.focus()
  }, [error])
  const submit = (e: FormEvent) => {
    e.preventDefault()
    e.stopPropagation()
    onSubmit()
  }
  return (
    <Problems value={error instanceof Problem ? error : undefined}>
      <Form ref={form} id={id} onSubmit={submit} noValidate isWidthLimited>
        {/* What somebody else changed is told by Conflict. */}
        {error && !(error instanceof Problem && error.code === 'stale') ? <div className="problem" tabIndex={-1}><ProblemAlert error={error} /></div> : null}
        {children}
      </Form>
    </Problems>
  )
}

interface FieldProps {
  label: string
  /** As the appliance names it, such as policy.rpoSeconds. */
  path: string
  hint?: ReactNode
  required?: boolean
}

interface Inner {
  id: string
  'aria-describedby': string
  validated: 'default' | 'error'
}

/** Label, hint and problem around any input. */
export function Field({ label, path, hint, required, children }: FieldProps & { children: (p: Inner) => ReactNode }) {
  const id = useId()
  const problem = useContext(Problems)?.violations.find(v => v.field === path || v.field.startsWith(`${path}.`) || v.field.startsWith(`${path}[`))
  return (
    <FormGroup label={label} fieldId={id} isRequired={required}>
      {children({ id, 'aria-describedby': `${id}-hint`, validated: problem ? 'error' : 'default' })}
      <FormHelperText>
        <HelperText id={`${id}-hint`}>
          {problem && <HelperTextItem variant="error">{sentence(problem.message)}</HelperTextItem>}
          {hint && <HelperTextItem>{hint}</HelperTextItem>}
        </HelperText>
      </FormHelperText>
    </FormGroup>
  )
}

interface TextProps extends FieldProps {
  value: string
  onChange: (v: string) => void
  type?: 'text' | 'password' | 'email' | 'url' | 'date' | 'time'
  autoComplete?: string
  maxLength?: number
  placeholder?: string
  autoFocus?: boolean
  /** A text of several lines. */
  lines?: number
}

export function TextField({ value, onChange, type = 'text', lines, label, path, hint, required, ...rest }: TextProps) {
  return (
    <Field {...{ label, path, hint, required }}>
      {inner =>
        lines
          ? <TextArea {...inner} {...rest} value={value} rows={lines} resizeOrientation="vertical" isRequired={required} onChange={(_, v) => onChange(v)} />
          : <TextInput {...inner} {...rest} value={value} type={type} isRequired={required} spellCheck={false} onChange={(_, v) => onChange(v)} />
      }
    </Field>
  )
}

interface NumberProps extends FieldProps {
  value: number
  onChange: (v: number) => void
  min?: number
  max?: number
  unit?: string
}

export function NumberField({ value, onChange, min = 0, max, unit, ...field }: NumberProps) {
  const bounded = (n: number) => Math.min(max ?? Infinity, Math.max(min, Number.isFinite(n) ? n : min))
  return (
    <Field {...field}>
      {({ validated, ...inner }) => (
        <NumberInput value={value} min={min} max={max} unit={unit} validated={validated} inputAriaLabel={field.label}
          inputProps={inner} minusBtnAriaLabel="−" plusBtnAriaLabel="+" onMinus={() => onChange(bounded(value - 1))} onPlus={() => onChange(bounded(value + 1))}
          onChange={e => onChange(bounded(Number(e.currentTarget.value)))} />
      )}
    </Field>
  )
}

interface SelectProps<V extends string> extends FieldProps {
  value: V
  onChange: (v: V) => void
  options: readonly (readonly [value: V, text: string])[]
}

export function SelectField<V extends string>({ value, onChange, options, ...field }: SelectProps<V>) {
  return (
    <Field {...field}>
      {inner => (
        <FormSelect {...inner} value={value} onChange={(_, v) => onChange(v as V)}>
          {options.map(([v, text]) => <FormSelectOption key={v} value={v} label={text} />)}
        </FormSelect>
      )}
    </Field>
  )
}

export function CheckField({ label, value, onChange, hint, disabled }: { label: string; value: boolean; onChange: (v: boolean) => void; hint?: ReactNode; disabled?: boolean }) {
  return <Checkbox id={useId()} label={label} isChecked={value} isDisabled={disabled} description={hint} onChange={(_, v) => onChange(v)} />
}

/** A secret that is kept when nothing is typed. */
export function SecretField({ kept, ...props }: TextProps & { kept?: boolean }) {
  const { t } = useTranslation()
  return <TextField {...props} type="password" autoComplete="new-password" placeholder={kept ? '••••••••' : undefined} hint={props.hint ?? (kept ? t('form.secretKept') : undefined)} />
}

type Revised = { revision: number }

/**
 * A copy of something that a person edits. What others change meanwhile does not touch it; it is told, and compared
 * by [Conflict].
 */
export function useDraft<T extends Revised>(current: T) {
  const [base, setBase] = useState(current)
  const [draft, setDraft] = useState(current)
  const dirty = JSON.stringify(base) !== JSON.stringify(draft)
  const others = current.revision !== base.revision
  const take = (to: T = current) => {
    setBase(to)
    setDraft(to)
  }
  useEffect(() => {
    if (others && !dirty) take()
  }, [others, dirty])
  return {
    draft,
    set: (change: Partial<T>) => setDraft(old => ({ ...old, ...change })),
    dirty,
    /** What others made of it, when that is something else than the draft began with. */
    theirs: others ? current : undefined,
    take,
    /** Keeps the draft and writes it over what others made. */
    overwrite: () => setBase(current),
    ifMatch: `"${base.revision}"`,
  }
}

/** Somebody else changed it: both versions side by side, and the choice between them. */
export function Conflict<T extends Revised>({ edit, names }: { edit: ReturnType<typeof useDraft<T>>; names: Partial<Record<keyof T, string>> }) {
  const { t } = useTranslation()
  const theirs = edit.theirs
  if (!theirs) return null
  const fields = Object.keys(theirs) as (keyof T)[]
  const differ = fields.filter(k => k !== 'revision' && JSON.stringify(theirs[k]) !== JSON.stringify(edit.draft[k]))
  const text = (v: unknown) => (v === undefined || v === '' ? '—' : typeof v === 'object' ? JSON.stringify(v) : String(v))
  return (
    <Alert variant="warning" isInline title={t('conflict.title')} actionLinks={
      <>
        <Button variant="link" isInline onClick={() => edit.take()}>{t('conflict.takeTheirs')}</Button>
        <Button variant="link" isInline onClick={edit.overwrite}>{t('conflict.keepMine')}</Button>
      </>
    }>
      <table className="conflict">
        <thead><tr><th scope="col">{t('conflict.field')}</th><th scope="col">{t('conflict.theirs')}</th><th scope="col">{t('conflict.mine')}</th></tr></thead>
        <tbody>{differ.map(k => <tr key={String(k)}><th scope="row">{names[k] ?? String(k)}</th><td>{text(theirs[k])}</td><td>{text(edit.draft[k])}</td></tr>)}</tbody>
      </table>
    </Alert>
  )
}

interface ChoiceProps extends FieldProps {
  /** Ids that are chosen; none means all. */
  value: string[]
  onChange: (ids: string[]) => void
  /** What is offered for a text. */
  useOptions: (q: string) => { id: string; name: string }[]
  useName: (id: string) => string | undefined
  /** Said while none is chosen. */
  all: string
}

/** Chooses some of very many: what is chosen, and a search for more. */
export function ManyField({ value, onChange, useOptions, useName, all, ...field }: ChoiceProps) {
  const [q, setQ] = useState('')
  const options = useOptions(q).filter(o => !value.includes(o.id))
  return (
    <Field {...field}>
      {({ id, 'aria-describedby': hint }) => (
        <div className="many">
          {value.length === 0 ? <p>{all}</p> : (
            <LabelGroup numLabels={20} aria-label={field.label}>
              {value.map(v => <Chosen key={v} id={v} useName={useName} onClose={() => onChange(value.filter(o => o !== v))} />)}
            </LabelGroup>
          )}
          <SearchInput id={id} aria-describedby={hint} aria-label={field.label} value={q} onChange={(_, v) => setQ(v)} onClear={() => setQ('')} />
          <div className="many-options">
            {options.map(o => <Button key={o.id} variant="link" size="sm" onClick={() => onChange([...value, o.id])}>+ {o.name}</Button>)}
          </div>
        </div>
      )}
    </Field>
  )
}

const Chosen = ({ id, useName, onClose }: { id: string; useName: (id: string) => string | undefined; onClose: () => void }) => {
  const name = useName(id) ?? id
  return <Label onClose={onClose} closeBtnAriaLabel={`− ${name}`}>{name}</Label>
}
