// Types of agent-sdk.js, for TypeScript and editors.

type Content = string | Uint8Array;
type Header = [name: string, value: string];
type Json = string | number | boolean | null | { [key: string]: unknown } | unknown[];
/** What a handler may give: JSON of whatever is no text, no bytes and no Output. */
type Answer = Output | Uint8Array | Json | object | undefined | void;

/** It will never work: a dead letter at once. */
export class Reject extends Error {}

/** It may work later: another attempt after the manifest's backoff, or not before `afterMs` have passed. */
export class Retry extends Error {
  constructor(message?: string, afterMs?: number);
  readonly afterMs?: number;
}

/** A call to the host failed. One that may pass has the task tried again, any other has it rejected. */
export class HostError extends Error {
  constructor(what: string, code: string, message: string, transient: boolean);
  /** The case of the interface's error, such as `access-denied`. */
  readonly code: string;
  readonly transient: boolean;
}

/** PostgreSQL refused a statement. */
export class SqlError extends HostError {
  constructor(error: { message: string; sqlstate: string; detail?: string; constraint?: string });
  readonly sqlstate: string;
  readonly detail?: string;
  readonly constraint?: string;
  /** Whether a row of this key is there already. */
  get isUniqueViolation(): boolean;
}

/** What a task that succeeded gives back, with a content type and headers of one's choice. */
export class Output {
  constructor(body: Content, contentType?: string, headers?: Header[]);
  readonly body: Uint8Array;
  readonly contentType?: string;
  readonly headers: Header[];
}

/** One unit of work, as one attempt sees it. */
export class Task {
  readonly id: string;
  readonly agent: string;
  readonly revision: number;
  /** From 1. */
  readonly attempt: number;
  readonly maxAttempts: number;
  /** In Unix milliseconds. */
  readonly enqueuedAt: bigint;
  /** In Unix milliseconds. */
  readonly deadline: bigint;
  readonly headers: Header[];
  readonly contentType: string;
  readonly body: Uint8Array;
  readonly traceparent?: string;
  /** The body as text. One that is none is rejected. */
  text(): string;
  /** The body as JSON. One that is none is rejected. */
  json<T = any>(): T;
  /** The first header of this name. */
  header(name: string): string | undefined;
}

/** Makes a function the agent: what a module exports as `handler`. */
export function agent(handle: (task: Task) => Answer): { handle(raw: object): unknown };

/** A value of the manifest's `[config]`. */
export function config(key: string): string | undefined;
export function config(key: string, otherwise: string): string;

/** A secret that the manifest lists under `[secrets]`. */
export function secret(name: string): string;

type Line = (message: unknown, context?: string) => void;

/** Log lines. What goes to the console is logged too. */
export const log: { debug: Line; info: Line; warn: Line; error: Line };

/** Submits a task to an agent that the manifest names under `grants.tasks`; gives its id. It leaves with this one. */
export function submit(
  agent: string,
  body?: Answer,
  options?: {
    delayMs?: number;
    idempotencyKey?: string;
    contentType?: string;
    headers?: Header[];
    maxAttempts?: number;
  },
): string;

/** Whether somebody cancelled the running task. */
export function isCancelled(): boolean;

/** Says how far the running task is, from 0 to 1. */
export function progress(fraction: number, note?: string): void;

/** A key-value bucket that the manifest grants. */
export class Bucket {
  constructor(name?: string);
  /** The value of a key. */
  get(key: string): Uint8Array | undefined;
  /** Sets a key. */
  set(key: string, value: Content): void;
  /** Deletes a key, whether it is there or not. */
  delete(key: string): void;
  /** Whether a key is there. */
  exists(key: string): boolean;
  /** Adds to a whole number and gives the sum; a key that is not there counts as 0. */
  increment(key: string, delta?: number): number;
  /** The values of several keys. */
  getMany(keys: string[]): Map<string, Uint8Array | undefined>;
  /** Sets several keys. */
  setMany(values: Record<string, Content>): void;
}

/** The cache, where the manifest grants it: values that may be forgotten. Without `ttlMs` a value has no end. */
export const cache: {
  get(key: string): Uint8Array | undefined;
  set(key: string, value: Content, ttlMs?: number): void;
  /** Whether it was there. */
  delete(key: string): boolean;
  increment(key: string, delta?: number): number;
  /** Whether it is there. */
  expire(key: string, ttlMs: number): boolean;
};

/** What goes into a statement. What is none of the others goes as JSON. */
export type Parameter = null | undefined | boolean | number | bigint | string | Uint8Array | Date | object;
/** What comes out of one. Whole numbers are bigint where they are not safe as numbers; dates and decimals are text. */
export type Value = any;
export type Row = Record<string, Value>;

/** A database that the manifest grants. Under `transaction = "task"` all that a task does in it commits together. */
export class Database {
  constructor(name?: string);
  /** Runs a statement and gives the number of rows that it affected. */
  execute(statement: string, ...parameters: Parameter[]): number;
  /** Runs a statement for its rows, which come as they are asked for. */
  query<R = Row>(statement: string, ...parameters: Parameter[]): Generator<R, void, void>;
  /** The first row of a query, where it has one. */
  queryOne<R = Row>(statement: string, ...parameters: Parameter[]): R | undefined;
}

/** A value as the host takes it. Whole numbers and texts become the parameter's own type where they fit. */
export function parameter(given: Parameter): { tag: string; val?: unknown };

/** A value of a row as JavaScript has it: whole numbers that are safe as numbers, others as bigint. */
export function value(raw: { tag: string; val?: unknown }): Value;

/** A response, read whole. */
export class Response {
  constructor(status: number, headers: Header[], body: Uint8Array);
  readonly status: number;
  readonly headers: Header[];
  readonly body: Uint8Array;
  /** The response where its status is a success; else an error, with which the task is tried again where the status may pass. */
  ok(): this;
  /** The body as text; what is none is replaced. */
  text(): string;
  /** The body as JSON. */
  json<T = any>(): T;
  /** The first header of this name. */
  header(name: string): string | undefined;
}

export interface RequestOptions {
  body?: Content;
  headers?: Header[];
  /** For the connection, and again for the first byte of the response. */
  timeoutMs?: number;
}

/** Requests to the origins that the manifest's `allowed_outbound_hosts` names. A redirect is a response. */
export const http: {
  request(method: string, url: string, options?: RequestOptions): Response;
  get(url: string, options?: RequestOptions): Response;
  post(url: string, body: Content, options?: RequestOptions): Response;
};

/** The content of a file in a granted folder. */
export function readFile(path: string): Uint8Array;

/** Writes a file in a granted folder, over what was there. */
export function writeFile(path: string, content: Content): void;
