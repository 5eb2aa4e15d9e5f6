/** What is wrong with records, by the first of them: what people are told, and what ends a command with 1. */

export type FindingKind =
  /** A place of the log has no record, or its file has none. */
  | "missing"
  /** A record is not the one that was signed. */
  | "changed"
  /** Two different records claim one place. */
  | "conflicting"
  /** A record stands where there must be none: twice, of another range, behind the end of the log. */
  | "extra"
  | "out-of-order"
  /** No audit record at all. */
  | "unreadable"
  /** Newer than the newest checkpoint. */
  | "unsigned"
  /** The log's signature or its proofs do not hold. */
  | "unproven";

export interface Finding {
  readonly kind: FindingKind;
  /** Place in the log; null where it is about no single record. */
  readonly logIndex: number | null;
  readonly detail: string;
}

export function finding(kind: FindingKind, logIndex: number | null, detail: string): Finding {
  return { kind, logIndex, detail };
}

/** A line for people. */
export function findingText({ kind, logIndex, detail }: Finding): string {
  return logIndex === null ? `${kind}: ${detail}` : `record ${logIndex} is ${kind}: ${detail}`;
}

/** Ends what it was found in. */
export class Found extends Error {
  override readonly name = "Found";
  readonly finding: Finding;

  constructor(found: Finding) {
    super(found.kind);
    this.finding = found;
  }
}

/** The folder or what stands in it is in the way; `message` says what to do. */
export class InTheWay extends Error {
  override readonly name = "InTheWay";
}
