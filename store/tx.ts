/**
 * What a consumer's step may do in the database: all of it in the step's transaction, on its connection.
 */
import {
  type Change,
  firstOf,
  type Retried,
  type SeqRange,
  type SetAside,
  setAside,
  settle,
  type Turned,
  takeMarks,
} from "./acks.ts";
import { findAgents, findSealedIdentities } from "./agents.ts";
import { appendLeaves, findSeen, type LogHead, lockHead, type NewLeaf } from "./audit-log.ts";
import { openAuditWeeks } from "./audit-weeks.ts";
import {
  changeKept,
  type DoneCommand,
  findCommands,
  type KeptChange,
  type KeptMessage,
  lockKept,
  type NewCommand,
  type RecalledCommand,
  recallCommands,
  writeCommands,
} from "./custody/commands.ts";
import { type DiscardedCommand, writeDiscarded } from "./custody/discarded.ts";
import { type FailedKey, type FailedMessage, findFailed } from "./custody/failed.ts";
import { findRequests, type RequestKey, type StoredRequest } from "./custody/requests.ts";
import {
  findStates,
  type LockedState,
  lockStates,
  type NewState,
  type Pair,
  type StateMark,
  type StoredState,
  writeStates,
} from "./custody/states.ts";
import { type Evicted, evictOldest, type FullMailbox } from "./evictions.ts";
import type { ItemKey } from "./mailbox.ts";
import { openMessageDays } from "./message-days.ts";
import type { MessageKey } from "./messages.ts";
import { addToHours, type HourCounts, lockMeters, type Meter, writeMeters } from "./meters.ts";
import { type Ask, type Decision, findDecisions } from "./permissions.ts";
import type { Postgres, Queryable } from "./postgres.ts";
import { type Arrival, type Placements, place } from "./queuing.ts";
import { findFacts, type SessionFacts, type SessionKey, writeFacts } from "./session-facts.ts";

export interface Tx {
  readonly queuing: {
    /** `store/queuing.ts` */
    place<Item extends Arrival>(arrivals: readonly Item[], itemsMax: number): Promise<Placements<Item>>;
    /** `store/evictions.ts`: what is to be evicted, by mailbox, the oldest first. */
    evictOldest(mailboxes: readonly FullMailbox[], itemsMax: number): Promise<readonly Evicted[]>;
  };
  readonly acks: {
    /** `store/acks.ts`: the messages that were not aside before, in the order of the changes. */
    setAside<Item extends Change>(changes: readonly Item[]): Promise<readonly SetAside<Item>[]>;
    /** `store/acks.ts`: what turned, in the order of the changes. */
    settle<Item extends Change>(changes: readonly Item[]): Promise<readonly Turned<Item>[]>;
    /** `store/acks.ts`: those that had a mark, in the order of the items. */
    takeMarks<Item extends Pick<Change, "recipientId" | "senderId" | "itemId">>(
      items: readonly Item[],
    ): Promise<readonly Retried<Item>[]>;
    /** What waits in each range, by seq, at most `limit`; in the order of the ranges. */
    firstOf(ranges: readonly SeqRange[], limit: number): Promise<readonly (readonly ItemKey[])[]>;
  };
  readonly sessions: {
    /** `store/session-facts.ts`: those that are there, in any order. */
    find(keys: readonly SessionKey[]): Promise<readonly SessionFacts[]>;
    /** One for each session. */
    write(facts: readonly SessionFacts[]): Promise<void>;
  };
  /** `store/meters.ts` */
  readonly metering: {
    /** Of each of these agents, in any order. */
    lockMeters(agentIds: readonly string[]): Promise<readonly Meter[]>;
    /** Those that are locked. */
    writeMeters(meters: readonly Meter[]): Promise<void>;
    /** Of agents whose meters are locked. */
    addToHours(hours: readonly HourCounts[]): Promise<void>;
  };
  readonly audit: {
    /** `store/audit-log.ts`: from here on no other step appends. */
    lockHead(): Promise<LogHead>;
    /** Those that have their record, by `ce_id`. */
    findSeen(eventIds: readonly string[]): Promise<ReadonlySet<string>>;
    append(head: LogHead, leaves: readonly NewLeaf[]): Promise<void>;
  };
  /** Of agents whose keys the service holds. */
  readonly custody: {
    /** `store/permissions.ts`: one for each ask, in their order. */
    findDecisions(asks: readonly Ask[]): Promise<readonly Decision[]>;
    /** `store/custody/commands.ts`: those that are done, in any order. */
    findCommands(keys: readonly MessageKey[]): Promise<readonly DoneCommand[]>;
    writeCommands(commands: readonly NewCommand[]): Promise<void>;
    /** `store/custody/discarded.ts`: those that are not encrypted, in any order. */
    writeDiscarded(commands: readonly DiscardedCommand[]): Promise<void>;
    /** What those said whose envelopes a recovery brought back. */
    recallCommands(commands: readonly RecalledCommand[]): Promise<void>;
    /** Those whose content is there, locked. */
    lockKept(keys: readonly MessageKey[]): Promise<readonly KeptMessage[]>;
    changeKept(changes: readonly KeptChange[]): Promise<void>;
    /** `store/custody/failed.ts`. */
    findFailed(keys: readonly FailedKey[]): Promise<readonly FailedMessage[]>;
    /** `store/custody/requests.ts`: those that wait. */
    findRequests(keys: readonly RequestKey[]): Promise<readonly StoredRequest[]>;
    /** `store/agents.ts`: public identity keys by agent id. */
    findIdentityKeys(agentIds: readonly string[]): Promise<ReadonlyMap<string, Uint8Array>>;
    /** `store/agents.ts`: sealed seeds by agent id. */
    findIdentities(agentIds: readonly string[]): Promise<ReadonlyMap<string, Uint8Array>>;
    /** `store/custody/states.ts`: those that are there, without a lock. */
    findStates(pairs: readonly Pair[]): Promise<readonly StoredState[]>;
    /** One for each of the pairs, locked. */
    lockStates(
      pairs: readonly Pair[],
      seen: { readonly areThere: boolean; readonly known: readonly StateMark[] },
    ): Promise<readonly LockedState[]>;
    writeStates(states: readonly NewState[]): Promise<void>;
  };
}

/**
 * Makes the `Tx` of each step from its connection; for `openSteps`.
 *
 * The pool needs a connection to spare beside those of the steps: a missing daily partition is made outside the transaction.
 */
export function stepTx(postgres: Postgres): (client: Queryable) => Tx {
  const days = openMessageDays(postgres);
  const weeks = openAuditWeeks(postgres);
  return (client) => ({
    queuing: {
      place: (arrivals, itemsMax) => place(client, days, arrivals, itemsMax),
      evictOldest: (mailboxes, itemsMax) => evictOldest(client, mailboxes, itemsMax),
    },
    acks: {
      setAside: (changes) => setAside(client, changes),
      settle: (changes) => settle(client, changes),
      takeMarks: (items) => takeMarks(client, items),
      firstOf: (ranges, limit) => firstOf(client, ranges, limit),
    },
    sessions: { find: (keys) => findFacts(client, keys), write: (facts) => writeFacts(client, facts) },
    metering: {
      lockMeters: (agentIds) => lockMeters(client, agentIds),
      writeMeters: (meters) => writeMeters(client, meters),
      addToHours: (hours) => addToHours(client, hours),
    },
    audit: {
      lockHead: () => lockHead(client),
      findSeen: (eventIds) => findSeen(client, eventIds),
      append: (head, leaves) => appendLeaves(client, weeks, head, leaves),
    },
    custody: {
      findDecisions: (asks) => findDecisions(client, asks),
      findCommands: (keys) => findCommands(client, keys),
      writeCommands: (commands) => writeCommands(client, days, commands),
      writeDiscarded: (commands) => writeDiscarded(client, days, commands),
      recallCommands: (commands) => recallCommands(client, commands),
      lockKept: (keys) => lockKept(client, keys),
      changeKept: (changes) => changeKept(client, changes),
      findFailed: (keys) => findFailed(client, keys),
      findRequests: (keys) => findRequests(client, keys),
      findIdentityKeys: async (agentIds) => {
        if (agentIds.length === 0) return new Map();
        const agents = await findAgents(client, agentIds);
        return new Map([...agents.values()].map(({ agentId, identityKey }) => [agentId, identityKey]));
      },
      findIdentities: (agentIds) => findSealedIdentities(client, agentIds),
      findStates: (pairs) => findStates(client, pairs),
      lockStates: (pairs, seen) => lockStates(client, pairs, seen),
      writeStates: (states) => writeStates(client, states),
    },
  });
}
