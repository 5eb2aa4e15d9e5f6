/** Reading the JSON of the service's answers; what a later service tells beside it is read past. */
import { Refusal } from "../protocol/refusal.ts";
import { AgentError } from "./errors.ts";

/** What the reader makes of an answer. Throws `answer-malformed` for what it refuses. */
export function understood<Value>(read: () => Value): Value {
  try {
    return read();
  } catch (error) {
    if (error instanceof Refusal) throw notUnderstood(error);
    throw error;
  }
}

/** Undefined as well when the answer is no JSON at all: a proxy's page. */
export function memberOf(json: unknown, name: string): unknown {
  return ((json ?? {}) as Record<string, unknown>)[name];
}

export function notUnderstood(cause?: unknown): AgentError {
  return new AgentError("answer-malformed", "the service's answer was not understood", { cause });
}
