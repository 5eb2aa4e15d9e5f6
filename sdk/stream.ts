/**
 * The agent's stream, kept open: connects, tells the others, and connects again.
 *
 * It goes on for ever through everything that may pass; it stops when a newer stream of the same agent has taken over (two
 * that fight would throw each other out without end) and when the service says that this agent is not to come back.
 */
import type { ServerFrame } from "../protocol/stream-frames.ts";
import { CLOSE_SUPERSEDED } from "../protocol/stream-frames.ts";
import { AgentError, AgentStopped, ServiceRefused, ServiceUnavailable, STOPPING_CODES } from "./errors.ts";
import { Backoff, delay } from "./patience.ts";
import { readProblem } from "./problem.ts";
import type { Service, StreamConnection } from "./service.ts";

/** The first is short, for gateways that restart one after the other; the last, that an outage ends for everybody within half a minute. */
const RECONNECT_MS = { firstMs: 250, lastMs: 30_000 };

/** It would be told the same for ever; a chain of delegation that does not hold (any more) is the application's to replace. */

export interface StreamEvents {
  readonly onOpen: (connection: StreamConnection) => void;
  readonly onFrames: (frames: readonly ServerFrame[]) => void;
  readonly onClose: () => void;
  /** The service does not know this agent (any more): registers it again. */
  readonly onUnknown: () => Promise<void>;
  /** A connection failed, or ended with a problem. */
  readonly onTrouble: (error: AgentError) => void;
}

/** Until the signal aborts. Throws `AgentStopped` when it must not go on. */
export async function keepStream(service: Service, events: StreamEvents, signal: AbortSignal): Promise<void> {
  const backoff = new Backoff(RECONNECT_MS);
  while (!signal.aborted) {
    let waitMs: number | null = null;
    try {
      await runStream(service, events, backoff, signal);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof AgentError) || error instanceof AgentStopped) throw error;
      if (STOPPING_CODES.has(error.code)) throw new AgentStopped(error.code, error);
      waitMs = error instanceof ServiceUnavailable ? error.retryAfterMs : null;
      events.onTrouble(error);
      if (error.code === "agent-unknown") await events.onUnknown().catch(() => {});
    }
    await delay(backoff.next(waitMs ?? 0), signal).catch(() => {});
  }
}

/** One connection, from its opening to its close. */
async function runStream(service: Service, events: StreamEvents, backoff: Backoff, signal: AbortSignal): Promise<void> {
  const closed = Promise.withResolvers<number>();
  let trouble: AgentError | null = null;
  let opened: StreamConnection | null = null;
  const end = () => opened?.close();
  const handlers = {
    onOpen: (connection: StreamConnection) => {
      opened = connection;
      events.onOpen(connection);
    },
    onFrames: (frames: readonly ServerFrame[]) => {
      backoff.reset();
      for (const frame of frames)
        if (frame.type === "problem") trouble = new ServiceRefused(readProblem(frame.problem));
      events.onFrames(frames);
    },
    onClose: closed.resolve,
  };
  await service.openStream(handlers);
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  try {
    const code = await closed.promise;
    if (code === CLOSE_SUPERSEDED) throw new AgentStopped("superseded");
    if (trouble !== null) throw trouble;
  } finally {
    signal.removeEventListener("abort", end);
    events.onClose();
  }
}
