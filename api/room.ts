/**
 * How much more of a sender fits into mailboxes: at most so many of its items wait for one recipient, so that no sender can flush the mail of others.
 *
 * Promise: what waits and what this process has let through and is not stored yet are together within the limit. What other processes have under way is seen
 * when it is stored, and what a message sent once more (and not recognised) hides before it, so the limit may be passed by that much. Some messages may be
 * counted twice, as stored and as under way.
 * A mailbox that holds twice what may wait in it takes nothing: acks is behind with what was evicted.
 *
 * While PostgreSQL is away what is not known has room: eviction bounds the mailbox all the same.
 */
import { Unavailable } from "../protocol/refusal.ts";

/**
 * `store/waiting.ts`: one for each question, in order. `stored`: how many of the messages of the question, up to the last of them that was stored. Throws
 * `Unavailable`.
 */
export type CountWaiting = (
  senderId: string,
  questions: readonly { readonly recipientId: string; readonly messageIds: readonly string[] }[],
  countMax: number,
) => Promise<readonly { readonly ofSender: number; readonly items: number; readonly stored: number }[]>;

/** Why there is no room; a `ProblemCode` each. */
export type NoRoom = "pair-full" | "overloaded";

export interface Room {
  /**
   * Takes room for these messages. All or nothing.
   *
   * @returns for each, in order, why there is none, or null; nothing was taken unless all are null. Never throws because a server is away.
   */
  take(
    senderId: string,
    messages: readonly { readonly recipientId: string; readonly messageId: string }[],
  ): Promise<readonly (NoRoom | null)[]>;
}

export interface RoomLimits {
  /** Items of one sender that wait for one recipient. */
  readonly pairItemsMax: number;
  /** Items that wait in a mailbox (queuing evicts what is beyond). */
  readonly mailboxItemsMax: number;
}

/** A pair that uses less than half of the room it had is not counted again for so long: most pairs, one statement a minute. */
const TRUSTED_MS = 60_000;

/** A pair that was full is not counted more often, however often its sender tries. */
const FULL_MS = 1_000;

/** Nor is one that comes near its limit. */
const NEAR_MS = 100;

/** Mailboxes hold what acks has not evicted yet. At twice their limit they take no more. */
const MAILBOX_FACTOR = 2;

/** When there are so many marks, every second goes: the last that is stored is then found to within half of what is under way. */
const MARKS_MAX = 16;

/**
 * What is not stored after this long counts no more: Kafka may never have got it. Longer than Kafka's leader elections take; while queuing stands still for longer,
 * a pair gets its room once for each such time.
 */
const UNDER_WAY_MS = 30_000;

/** Some 300 bytes each: 30 MB. A pair that is forgotten is counted again. */
const PAIRS_MAX = 100_000;

/** A message that was let through, when, and how many of its pair had been by then. */
interface Mark {
  readonly messageId: string;
  readonly taken: number;
  readonly at: number;
}

/** A pair, as it was last counted, and what was let through. */
interface Pair {
  /** Which count it was: an older one whose answer comes later says less. */
  readonly turn: number;
  countedAt: number;
  waiting: number;
  isBehind: boolean;
  taken: number;
  /** So many of `taken` are stored for sure. */
  stored: number;
  /** Of what is perhaps not stored yet, the oldest first. */
  marks: readonly Mark[];
}

/** `now`: a clock that nobody sets, ms. */
export function openRoom(count: CountWaiting, limits: RoomLimits, now: () => number = () => performance.now()): Room {
  const pairs = new Map<string, Pair>();
  const { pairItemsMax } = limits;
  let turns = 0;
  const pairOf = (senderId: string, recipientId: string) => pairs.get(nameOf(senderId, recipientId));

  async function look(senderId: string, wanted: ReadonlyMap<string, readonly string[]>): Promise<void> {
    const due = [...wanted]
      .filter(([recipientId, ids]) => isDue(pairOf(senderId, recipientId), ids.length))
      .map(([recipientId]) => ({ recipientId, marks: pairOf(senderId, recipientId)?.marks ?? [] }));
    if (due.length === 0) return;
    const countedAt = now();
    turns += 1;
    const turn = turns;
    const questions = due.map(({ recipientId, marks }) => {
      return { recipientId, messageIds: marks.map(({ messageId }) => messageId) };
    });
    const counts = await unlessAway(count(senderId, questions, pairItemsMax));
    for (const [n, { ofSender, items, stored }] of counts.entries()) {
      const { recipientId = "", marks = [] } = due[n] ?? {};
      const before = pairOf(senderId, recipientId) ?? { turn: 0, taken: 0, stored: 0, marks: [] };
      if (before.turn > turn) continue;
      const late = marks.findLast(({ at }) => at <= countedAt - UNDER_WAY_MS);
      const storedNow = Math.max(before.stored, marks[stored - 1]?.taken ?? 0, late?.taken ?? 0);
      renew(nameOf(senderId, recipientId), {
        ...{ turn, countedAt, waiting: ofSender, isBehind: items >= limits.mailboxItemsMax * MAILBOX_FACTOR },
        ...{ taken: before.taken, stored: storedNow, marks: before.marks.filter(({ taken }) => taken > storedNow) },
      });
    }
  }

  /** Deleted first, so that a Map's insertion order is the order of age. */
  function renew(name: string, pair: Pair): void {
    pairs.delete(name);
    pairs.set(name, pair);
    for (const oldest of pairs.keys()) {
      if (pairs.size <= PAIRS_MAX) break;
      pairs.delete(oldest);
    }
  }

  function isDue(pair: Pair | undefined, items: number): boolean {
    if (pair === undefined) return true;
    const ageMs = now() - pair.countedAt;
    const room = pairItemsMax - pair.waiting;
    if (room <= 0 || pair.isBehind) return ageMs >= FULL_MS;
    return ageMs >= (pair.taken - pair.stored + items <= room / 2 ? TRUSTED_MS : NEAR_MS);
  }

  function leftOf(pair: Pair): number {
    return pairItemsMax - pair.waiting - (pair.taken - pair.stored);
  }

  return {
    take: async (senderId, messages) => {
      const wanted = new Map<string, string[]>();
      for (const { recipientId, messageId } of messages) {
        const ids = wanted.get(recipientId);
        if (ids === undefined) wanted.set(recipientId, [messageId]);
        else ids.push(messageId);
      }
      await look(senderId, wanted);
      // From here to the end in one turn: calls at the same time do not take the same room.
      const left = new Map<string, number>();
      const answers = messages.map(({ recipientId }): NoRoom | null => {
        const pair = pairOf(senderId, recipientId);
        if (pair === undefined) return null;
        if (pair.isBehind) return "overloaded";
        const room = left.get(recipientId) ?? leftOf(pair);
        left.set(recipientId, room - 1);
        return room > 0 ? null : "pair-full";
      });
      if (answers.some((answer) => answer !== null)) return answers;
      for (const [recipientId, ids] of wanted) {
        const pair = pairOf(senderId, recipientId);
        if (pair === undefined) continue;
        pair.taken += ids.length;
        pair.marks = withMark(pair.marks, { messageId: ids.at(-1) ?? "", taken: pair.taken, at: now() });
      }
      return answers;
    },
  };
}

function withMark(marks: readonly Mark[], mark: Mark): readonly Mark[] {
  const kept = marks.length < MARKS_MAX ? marks : marks.filter((_, index) => index % 2 === 0);
  return [...kept, mark];
}

/** Nothing was counted while PostgreSQL is away. */
async function unlessAway<Counts>(counting: Promise<readonly Counts[]>): Promise<readonly Counts[]> {
  try {
    return await counting;
  } catch (error) {
    if (error instanceof Unavailable) return [];
    throw error;
  }
}

function nameOf(senderId: string, recipientId: string): string {
  return `${senderId} ${recipientId}`;
}
