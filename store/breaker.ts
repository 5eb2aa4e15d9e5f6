/**
 * A circuit breaker before a server that others wait for: while it is away, who asks is told so at once and not after a timeout each.
 *
 * Promises: when several questions one after the other went unanswered, further ones fail with `Unavailable` without being asked. After a pause one is
 * let through; when it is answered, all are. At most so many are under way at a time, whoever is beyond that is told to come back (`Unavailable`
 * "service"). What a server answers, were it a refusal, shows that it is there.
 */
import {
  BrokenCircuitError,
  BulkheadRejectedError,
  bulkhead,
  CircuitState,
  ConsecutiveBreaker,
  circuitBreaker,
  handleWhen,
} from "cockatiel";
import { Unavailable } from "../protocol/refusal.ts";

export interface BreakerOptions {
  readonly door: Unavailable["door"];
  /** Under way or waiting at a time. */
  readonly questionsMax: number;
  /** Does it say that the server is away? */
  readonly isAway: (error: unknown) => boolean;
  /** Told when it begins and when it ends. */
  readonly onAway: (away: boolean) => void;
}

/** In a row: one or two fail by chance, when a connection dies for example. With a server that is frozen they are the first five that time out. */
const FAILURES_MAX = 5;

/** Between two that are let through: so long a server that is back may not be noticed. Clients come back after two seconds. */
const PAUSE_MS = 1_000;

export interface Breaker {
  /** @throws Unavailable instead of asking; or what `question` throws */
  ask<Answer>(question: () => Promise<Answer>): Promise<Answer>;
}

/** `pauseMs`: tests are in more of a hurry. */
export function openBreaker(
  { door, questionsMax, isAway, onAway }: BreakerOptions,
  pauseMs: number = PAUSE_MS,
): Breaker {
  const circuit = circuitBreaker(handleWhen(isAway), {
    halfOpenAfter: pauseMs,
    breaker: new ConsecutiveBreaker(FAILURES_MAX),
  });
  const room = bulkhead(questionsMax, 0);
  let away = false;
  circuit.onStateChange((state) => {
    if (state === CircuitState.HalfOpen) return;
    const now = state === CircuitState.Open;
    if (away !== now) onAway(now);
    away = now;
  });
  return {
    ask: async (question) => {
      // The library would have them wait for the one that is let through, for as long as its timeout is.
      if (circuit.state === CircuitState.HalfOpen) throw new Unavailable(door);
      try {
        return await room.execute(() => circuit.execute(question));
      } catch (error) {
        if (error instanceof BulkheadRejectedError) throw new Unavailable("service", error);
        if (error instanceof BrokenCircuitError) throw new Unavailable(door, error);
        throw error;
      }
    },
  };
}
