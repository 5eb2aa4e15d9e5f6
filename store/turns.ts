/**
 * Turns: what concerns one name is done one after the other within this process, so that those who wait for a row's lock anyway wait here, and not each
 * on a connection that others need.
 *
 * Promise: in the order of asking. Whoever waits behind something that was `Unavailable` is told so at once, instead of finding out after a timeout of
 * its own. A queue of one name has an end: whoever finds it full is told to come back (`Unavailable` "service").
 */
import { Unavailable } from "../protocol/refusal.ts";

export interface Turns {
  take<Result>(name: string, work: () => Promise<Result>): Promise<Result>;
}

/** Who waits for one name. At a few milliseconds a turn the last waits half a second; more would wait for longer than they listen. */
const WAITING_MAX = 128;

interface Queue {
  last: Promise<unknown>;
  length: number;
}

export function openTurns(): Turns {
  const queues = new Map<string, Queue>();
  return {
    take: async (name, work) => {
      const queue = queues.get(name) ?? { last: Promise.resolve(), length: 0 };
      if (queue.length >= WAITING_MAX) throw new Unavailable("service");
      const turn = queue.last.then(work, (error: unknown) => {
        if (error instanceof Unavailable) throw error;
        return work();
      });
      queue.last = turn;
      queue.length += 1;
      queues.set(name, queue);
      try {
        return await turn;
      } finally {
        queue.length -= 1;
        if (queue.length === 0) queues.delete(name);
      }
    },
  };
}
