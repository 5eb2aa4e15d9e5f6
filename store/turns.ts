/**
 * Turns: what concerns one name is done one after the other within this process, so that those who wait for a row's lock anyway wait here, and not each
 * on a connection that others need.
 *
 * Promise: in the order of asking. Whoever waits behind something that was `Unavailable` is told so at once, instead of finding out after a timeout of
 * its own.
 */
import { Unavailable } from "../protocol/refusal.ts";

export interface Turns {
  take<Result>(name: string, work: () => Promise<Result>): Promise<Result>;
}

export function openTurns(): Turns {
  /** The last one of each name that somebody waits for. */
  const last = new Map<string, Promise<unknown>>();
  return {
    take: (name, work) => {
      const turn = (last.get(name) ?? Promise.resolve()).then(work, (error: unknown) => {
        if (error instanceof Unavailable) throw error;
        return work();
      });
      last.set(name, turn);
      const leave = () => {
        if (last.get(name) === turn) last.delete(name);
      };
      void turn.then(leave, leave);
      return turn;
    },
  };
}
