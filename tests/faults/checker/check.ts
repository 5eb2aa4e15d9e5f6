/** Every invariant over one history. Pure: the same history, the same findings. */
import { decodeEnvelope, type Envelope } from "../../../protocol/envelope.ts";
import { keysUsedTwice } from "../../keys-used-twice.ts";
import { regressed } from "./answers.ts";
import { diverged } from "./diverged.ts";
import { duplicated, repeats } from "./duplicated.ts";
import type { History, Operation } from "./history.ts";
import { type Indexed, indexed } from "./indexed.ts";
import { invented, saidAnew, unattributed } from "./invented.ts";
import { strayDeadLetters, stuck, worstRecoveryMs } from "./liveness.ts";
import { lost } from "./lost.ts";
import { miscounted } from "./miscounted.ts";
import { misplaced } from "./positions.ts";
import { impliedDeliveries, reordered } from "./reordered.ts";
import { unaudited } from "./unaudited.ts";
import { unseen } from "./unseen.ts";

/** What is wrong, by invariant: a line each. All empty: the history is one that the product promises. */
const invariants = {
  lost,
  invented,
  duplicated,
  reordered,
  /** Answers that were taken back, or forgotten. */
  regressed,
  /** Message keys and nonces that stand in two ciphertexts. */
  keysReused: (index) => keysUsedTwice(distinctEnvelopes(index)),
  misplaced: ({ history }) => misplaced(history),
  stuck: ({ history }) => stuck(history),
  strayDeadLetters: ({ history }) => strayDeadLetters(history),
  /** Facts without their one record in the audit, and records of no fact. */
  unaudited: ({ history }) => unaudited(history),
  /** Usage that is not what the log says. */
  miscounted,
  /** Rows of the database that are not what the log says. */
  diverged: ({ history }) => diverged(history),
  /** What was not looked at. */
  unseen,
} satisfies Readonly<Record<string, (index: Indexed) => readonly string[]>>;

export type Invariant = keyof typeof invariants;
export type Findings = Readonly<Record<Invariant, readonly string[]>>;

export interface Verdict {
  readonly findings: Findings;
  readonly counts: Readonly<Record<Operation["kind"], Readonly<Record<Operation["outcome"], number>>>>;
  readonly records: number;
  /** Records that repeat an event, byte by byte. */
  readonly repeats: number;
  readonly saidAnew: number;
  readonly unattributed: number;
  /** Messages whose delivery was told only with their answer. */
  readonly impliedDeliveries: number;
  readonly envelopes: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly worstRecoveryMs: number | null;
  readonly quietAfterMs: number | null;
}

export function check(history: History): Verdict {
  const index = indexed(history);
  const found = Object.entries(invariants).map(([invariant, judge]) => [invariant, judge(index)]);
  return {
    findings: Object.fromEntries(found) as Findings,
    counts: {
      send: counted(history, "send"),
      receive: counted(history, "receive"),
      acknowledge: counted(history, "acknowledge"),
    },
    records: history.log.length,
    repeats: repeats(history.log),
    saidAnew: saidAnew(index),
    unattributed: unattributed(index),
    impliedDeliveries: impliedDeliveries(index),
    envelopes: distinctEnvelopes(index).length,
    faults: Object.fromEntries(
      Object.entries(Object.groupBy(history.injected, ({ fault }) => fault)).map(([fault, all]) => [
        fault,
        all?.length ?? 0,
      ]),
    ),
    worstRecoveryMs: worstRecoveryMs(history),
    quietAfterMs: history.quietMs === null ? null : Math.round(history.quietMs - history.healedMs),
  };
}

/** Of one invariant alone: of a long history, all of them take long. */
export function findingsOf(history: History, invariant: Invariant): readonly string[] {
  return invariants[invariant](indexed(history));
}

/** Which invariants do not hold. */
export function broken({ findings }: Verdict): readonly Invariant[] {
  return (Object.keys(findings) as Invariant[]).filter((invariant) => findings[invariant].length > 0);
}

function distinctEnvelopes(index: Indexed): readonly Envelope[] {
  const bodies = index
    .inTopic("message.encrypted.v1")
    .flatMap(({ item }) => (item.kind === "message" && item.body !== null ? [item.body] : []));
  return [...new Set(bodies)].map((body) => decodeEnvelope(Buffer.from(body, "base64")));
}

function counted({ operations }: History, kind: Operation["kind"]) {
  const of = (outcome: Operation["outcome"]) =>
    operations.filter((one) => one.kind === kind && one.outcome === outcome).length;
  return { ok: of("ok"), fail: of("fail"), unknown: of("unknown") };
}
