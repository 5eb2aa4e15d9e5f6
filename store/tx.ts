/**
 * What a consumer's step may do in the database: all of it in the step's transaction, on its connection.
 */
import { type Change, settle, type Turned } from "./acks.ts";
import { findSealedIdentities } from "./agents.ts";
import { type DoneCommand, findCommands, writeCommands } from "./custody/commands.ts";
import { findStates, lockStates, type NewState, type Pair, type StoredState, writeStates } from "./custody/states.ts";
import { openMessageDays } from "./message-days.ts";
import type { MessageKey } from "./messages.ts";
import type { Postgres, Queryable } from "./postgres.ts";
import { type Arrival, type Placed, place } from "./queuing.ts";
import { findFacts, type SessionFacts, type SessionKey, writeFacts } from "./session-facts.ts";

export interface Tx {
  readonly queuing: {
    /** `store/queuing.ts`: one for each arrival, in order. */
    place<Item extends Arrival>(arrivals: readonly Item[]): Promise<readonly Placed<Item>[]>;
  };
  readonly acks: {
    /** `store/acks.ts`: what turned, in the order of the changes. */
    settle<Item extends Change>(changes: readonly Item[]): Promise<readonly Turned<Item>[]>;
  };
  readonly sessions: {
    /** `store/session-facts.ts`: those that are there, in any order. */
    find(keys: readonly SessionKey[]): Promise<readonly SessionFacts[]>;
    /** One for each session. */
    write(facts: readonly SessionFacts[]): Promise<void>;
  };
  /** Of agents whose keys the service holds. */
  readonly custody: {
    /** `store/custody/commands.ts`: those that are done, in any order. */
    findCommands(keys: readonly MessageKey[]): Promise<readonly DoneCommand[]>;
    writeCommands(commands: readonly DoneCommand[]): Promise<void>;
    /** `store/agents.ts`: sealed seeds by agent id. */
    findIdentities(agentIds: readonly string[]): Promise<ReadonlyMap<string, Uint8Array>>;
    /** `store/custody/states.ts`: those that are there, without a lock. */
    findStates(pairs: readonly Pair[]): Promise<readonly StoredState[]>;
    /** One for each of the pairs, locked. */
    lockStates(pairs: readonly Pair[], seen: { readonly areThere: boolean }): Promise<readonly StoredState[]>;
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
  return (client) => ({
    queuing: { place: (arrivals) => place(client, days, arrivals) },
    acks: { settle: (changes) => settle(client, changes) },
    sessions: { find: (keys) => findFacts(client, keys), write: (facts) => writeFacts(client, facts) },
    custody: {
      findCommands: (keys) => findCommands(client, keys),
      writeCommands: (commands) => writeCommands(client, days, commands),
      findIdentities: (agentIds) => findSealedIdentities(client, agentIds),
      findStates: (pairs) => findStates(client, pairs),
      lockStates: (pairs, seen) => lockStates(client, pairs, seen),
      writeStates: (states) => writeStates(client, states),
    },
  });
}
