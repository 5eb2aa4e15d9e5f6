/**
 * The two expected kinds of failure, told apart by class and never by text.
 *
 * `Refusal`: the input's fault; nothing was done. `Unavailable`: the world's fault; the same thing may be tried again.
 * Everything else that is thrown is a bug of ours. Messages are constant per code: no id, key or peer input in them.
 */

/** The closed list of protocol.md §7. */
export type ProtocolCode =
  | "malformed"
  | "wrong-recipient"
  | "session-unknown"
  | "message-key-gone"
  | "identity-key-invalid"
  | "identity-mismatch"
  | "session-mismatch"
  | "suite-refused"
  | "prekey-unknown"
  | "bad-key"
  | "counter-too-far"
  | "auth-failed"
  | "bad-frame"
  | "bad-padding"
  | "signature-invalid"
  | "prekey-stale";

/**
 * The input was refused. `Code` is a closed union of the layer that throws it.
 *
 * `field` names what was wrong where there is a name for it (a JSON pointer or a header), `fix` says what to do; both are
 * constants of the throwing place.
 */
export class Refusal<Code extends string = string> extends Error {
  override readonly name = "Refusal";
  readonly code: Code;
  readonly field: string | undefined;
  readonly fix: string | undefined;

  constructor(code: Code, detail: { field?: string; fix?: string } = {}) {
    super(code);
    this.code = code;
    this.field = detail.field;
    this.fix = detail.fix;
  }
}

/** An outside system did not answer as it should. Thrown only at the doors; keeps its cause. */
export class Unavailable extends Error {
  override readonly name = "Unavailable";
  readonly door: "kafka" | "postgres" | "redis" | "registry" | "keyring" | "issuer" | "service";

  constructor(door: Unavailable["door"], cause?: unknown) {
    super(`${door} is unavailable`, cause === undefined ? undefined : { cause });
    this.door = door;
  }
}

/** The answer to COMMIT was lost: the transaction happened or did not. */
export class CommitUnknown extends Unavailable {
  constructor(cause?: unknown) {
    super("postgres", cause);
  }
}

/** The database refused a value that came from a record (SQLSTATE class 22 or 23): the record's fault. */
export class RecordFault extends Error {
  override readonly name = "RecordFault";
  readonly sqlState: string;

  constructor(sqlState: string, cause: unknown) {
    super("a record's value was refused by the database", { cause });
    this.sqlState = sqlState;
  }
}
