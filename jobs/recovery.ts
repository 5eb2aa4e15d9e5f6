/**
 * After the database was put back from a backup: makes it safe to go on (docs/restore.md).
 *
 * Reads   what Kafka was told of positions (`streams/witness.ts`); message.send.v1 from the position of encryption on; message.encrypted.v1 from a
 *         little before the first of those commands on.
 * Writes  the envelopes that have left since the backup, as those of their commands; retires one-time prekeys; what was decided about agents since
 *         (decision-recovery.ts); what the audit gave out since (audit-recovery.ts); last of all the database's next
 *         generation, by which sessions of server custody are retired and consumers that stand go on. Where the audit is forked, it alone is held, and stands.
 * Keeps   everything else as the backup has it: queuing and sessions do again what they did, and are waited for.
 *
 * Ended at any moment it may be begun again: until its last statement everybody still stands.
 */
import { decodeEnvelope } from "../protocol/envelope.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { messageIdTime } from "../protocol/message-id.ts";
import { Refusal } from "../protocol/refusal.ts";
import {
  beginGathering,
  gather,
  keepEnvelopes,
  type LeftEnvelope,
  retireOneTimePrekeys,
} from "../store/custody/recovering.ts";
import { beginGeneration, holdGroup, releaseGroup } from "../store/generation.ts";
import type { MessageDays } from "../store/message-days.ts";
import { inTransaction } from "../store/postgres.ts";
import { pause } from "../streams/backoff.ts";
import { messageEncrypted, messageSend } from "../streams/catalogue.ts";
import type { Codec } from "../streams/codec.ts";
import type { StepStore } from "../streams/consumer.ts";
import { partitionName } from "../streams/partition.ts";
import { type ReadRecord, readRange } from "../streams/read-topic.ts";
import type { Topic } from "../streams/topic.ts";
import { findTold, isBehind, type Reached } from "../streams/witness.ts";
import { type AuditRecoveryDeps, relearnAudit } from "./audit-recovery.ts";
import { recoverDecisions } from "./decision-recovery.ts";

export interface RecoveryDeps extends AuditRecoveryDeps {
  /** On a connection of its own. */
  readonly days: MessageDays;
  readonly store: Pick<StepStore<never>, "loadPositions" | "loadGeneration" | "loadReached">;
  /** ms since the epoch, by the database's clock. */
  readonly now: () => Promise<number>;
  /** The group that keeps the audit. */
  readonly auditGroup: string;
  /** The consumers that stand in such a database; the first is the one that encrypts. */
  readonly standing: readonly [Group, ...Group[]];
  /** The one that puts items into mailboxes. */
  readonly queuing: Group;
  /** A line for whoever watches. */
  readonly say: (line: string) => void;
  /** Of waiting for queuing without a sign of it; ms. */
  readonly patienceMs: number;
}

export interface Group {
  readonly name: string;
  readonly topic: Topic<unknown>;
}

/**
 * `not-behind`: nothing shows that the database went back. `queuing-stands`: it is not running, or stands before a gap. `audit-forked`: audit.v1 holds what
 * contradicts it or the database; the others go on. `audit-released`: the audit alone stood, because of that, and goes on.
 */
export type Recovered =
  | { readonly outcome: "recovered"; readonly generation: number; readonly envelopes: number; readonly prekeys: number }
  | { readonly outcome: "not-behind" | "queuing-stands" | "audit-forked" | "audit-released" };

/** Brokers' clocks differ; an envelope is appended after its command. More costs a second of reading. */
const CLOCKS_MS = 10 * 60 * 1_000;

/** As in the check of a command. */
const ID_AGE_MS_MAX = 9 * DAY_MS;

const LOOK_EVERY_MS = 500;

/** `anyway`: an operator knows that the database went back, whatever Kafka was told. Throws `Unavailable`. */
export async function recover(deps: RecoveryDeps, { anyway }: { readonly anyway: boolean }): Promise<Recovered> {
  const here = await deps.store.loadGeneration();
  const groups = await Promise.all(deps.standing.map((group) => compare(deps, group, here)));
  for (const name of new Set(groups.map((group) => group.name))) {
    const behind = groups.reduce((sum, group) => sum + (group.name === name ? group.behind : 0), 0);
    deps.say(`${name}: ${behind} partitions are behind what Kafka was told`);
  }
  if (!anyway && groups.every(({ behind }) => behind === 0)) return releaseAudit(deps);
  if (!(await queuingHasCaughtUp(deps))) return { outcome: "queuing-stands" };
  const envelopes = await inTransaction(deps.postgres, (client) => keepWhatLeft(deps, client));
  deps.say(`${envelopes} commands will publish the envelopes that have left before`);
  const prekeys = await retireOneTimePrekeys(deps.postgres, await deps.now());
  deps.say(`${prekeys} one-time prekeys are handed out no more`);
  deps.say(`${await recoverDecisions(deps)} decisions about agents hold again`);
  const isWhole = await recoverAudit(deps);
  const seen = Math.max(...groups.map(({ generation }) => generation));
  const generation = await beginGeneration(deps.postgres, seen);
  return isWhole ? { outcome: "recovered", generation, envelopes, prekeys } : { outcome: "audit-forked" };
}

/** Nobody is behind; the audit may be held still. */
async function releaseAudit(deps: RecoveryDeps): Promise<Recovered> {
  const { isHeld } = await deps.store.loadReached(deps.auditGroup);
  if (!isHeld) return { outcome: "not-behind" };
  return { outcome: (await recoverAudit(deps)) ? "audit-released" : "audit-forked" };
}

/** False where it is forked: then it is held, and messages need not wait for it. */
async function recoverAudit(deps: RecoveryDeps): Promise<boolean> {
  const audited = await relearnAudit(deps);
  if (audited === "forked") {
    await holdGroup(deps.postgres, deps.auditGroup);
    return false;
  }
  deps.say(`${audited.learned} audit records keep their places; ${audited.lost} of them were lost on their way`);
  await releaseGroup(deps.postgres, deps.auditGroup);
  return true;
}

interface Compared {
  readonly name: string;
  readonly behind: number;
  /** The highest that Kafka was told of. */
  readonly generation: number;
}

async function compare(deps: RecoveryDeps, group: Group, generation: number): Promise<Compared> {
  const told = await findTold(deps.kafka, group.name, [group.topic.name]);
  const places = await placesOf(deps, group);
  const isOld = ({ partition, position, low }: Place) => {
    const known: Reached | null = told.get(partitionName({ topic: group.topic.name, partition })) ?? null;
    return isBehind({ generation, nextOffset: position }, known, low);
  };
  const generations = Array.from(told.values(), (reached) => reached.generation);
  return { name: group.name, behind: places.filter(isOld).length, generation: Math.max(0, ...generations) };
}

interface Place {
  readonly partition: number;
  readonly position: number;
  /** Of its log. */
  readonly low: number;
  readonly high: number;
}

async function placesOf({ kafka, store }: RecoveryDeps, { name, topic }: Group): Promise<readonly Place[]> {
  const ranges = await kafka.ask((admin) => admin.fetchTopicOffsets(topic.name));
  const wanted = ranges.map(({ partition, low }) => ({ topic: topic.name, partition, startAt: Number(low) }));
  const positions = new Map(
    (await store.loadPositions(name, wanted)).map(({ partition, nextOffset }) => [partition, nextOffset]),
  );
  return ranges.map(({ partition, low, high }) => {
    return { partition, position: positions.get(partition) ?? Number(low), low: Number(low), high: Number(high) };
  });
}

/** Waits until queuing has passed what is in the log now: an answer to an item that is not in its mailbox yet would be lost. False when it does not move. */
async function queuingHasCaughtUp(deps: RecoveryDeps): Promise<boolean> {
  const ends = new Map((await placesOf(deps, deps.queuing)).map(({ partition, high }) => [partition, high]));
  let least = Number.POSITIVE_INFINITY;
  for (let until = performance.now() + deps.patienceMs; performance.now() < until; ) {
    const left = (await placesOf(deps, deps.queuing)).reduce(
      (sum, { partition, position }) => sum + Math.max(0, (ends.get(partition) ?? 0) - position),
      0,
    );
    if (left === 0) return true;
    if (left < least) {
      deps.say(`${deps.queuing.name} puts ${left} items back into mailboxes`);
      until = performance.now() + deps.patienceMs;
      least = left;
    }
    await pause(LOOK_EVERY_MS);
  }
  return false;
}

/** Of the commands that will be read again. */
async function keepWhatLeft(deps: RecoveryDeps, client: Parameters<typeof gather>[0]): Promise<number> {
  const { kafka, codec, days, standing } = deps;
  const [encryption] = standing;
  await beginGathering(client);
  let since = Number.POSITIVE_INFINITY;
  const positions = new Map((await placesOf(deps, encryption)).map((place) => [place.partition, place.position]));
  await readRange(kafka, messageSend.name, positions, async (records) => {
    const commands = await decoded(codec, messageSend, records);
    await gather(
      client,
      commands.map(({ value }) => value),
    );
    since = Math.min(since, ...records.map(({ timestamp }) => Number(timestamp)));
  });
  if (since === Number.POSITIVE_INFINITY) return 0;
  const starts = await kafka.ask((admin) =>
    admin.fetchTopicOffsetsByTimestamp(messageEncrypted.name, since - CLOCKS_MS),
  );
  let kept = 0;
  const from = new Map(starts.map(({ partition, offset }) => [partition, Number(offset)]));
  await readRange(kafka, messageEncrypted.name, from, async (records) => {
    const items = await decoded(codec, messageEncrypted, records);
    const envelopes = items.flatMap(({ value, timestamp }) => {
      const { kind, custody, senderId, itemId: messageId, body: envelope, delegation = [] } = value;
      const left = { senderId, messageId, envelope, delegation };
      return kind === "message" && custody === "server" && isWhole(left, timestamp) ? [left] : [];
    });
    kept += await keepEnvelopes(client, days, envelopes);
  });
  return kept;
}

/** What cannot be decoded is left out: nobody else can, either. */
async function decoded<Value>(codec: Codec, topic: Topic<Value>, records: readonly ReadRecord[]) {
  await codec.learn(records.map(({ value }) => value));
  return records.flatMap((record) => {
    try {
      return [{ timestamp: Number(record.timestamp), value: codec.decode(topic, record.value) }];
    } catch (error) {
      if (error instanceof Refusal) return [];
      throw error;
    }
  });
}

/** Is it the envelope of its item, as encryption makes them? The log is not believed. */
function isWhole({ senderId, messageId, envelope }: LeftEnvelope, timestamp: number): boolean {
  try {
    const decodedEnvelope = decodeEnvelope(envelope, { ciphertextBytesMax: 1024 * 1024 });
    const time = messageIdTime(messageId);
    const isOfItem = decodedEnvelope.senderId === senderId && decodedEnvelope.messageId === messageId;
    return isOfItem && time !== null && Math.abs(timestamp - time) < ID_AGE_MS_MAX;
  } catch (error) {
    if (error instanceof Refusal) return false;
    throw error;
  }
}
