/**
 * Stores an agent's public prekeys.
 *
 * Promise: only signed and KEM prekeys whose signatures hold under the caller's identity key are stored; all of a call or nothing. The same
 * call again changes nothing; the same id with another key is refused. A new signed prekey replaces the older one for new bundles, and so
 * does a new KEM prekey of last resort.
 */
import { isKemKey } from "../../protocol/kem-key.ts";
import { PREKEY_AHEAD_MS_MAX, PREKEY_UPLOAD_MAX } from "../../protocol/limits.ts";
import {
  isPrekeySignatureValid,
  type KemPrekey,
  type OneTimePrekey,
  type SignedPrekey,
  type SignedPrekeyKind,
} from "../../protocol/prekeys.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import type { Custody } from "../../schemas/values.ts";
import type { Limit, LimitsDoor } from "../../store/limits.ts";
import type { Remaining } from "../../store/prekey-stock.ts";
import { ApiRefusal } from "../problem.ts";

export interface UploadPrekeysDeps {
  /** In one transaction. Throws `Refusal` `prekey-conflict`, `too-many`, `Unavailable`. */
  readonly storePrekeys: (agentId: string, prekeys: UploadPrekeysInput, now: number) => Promise<Remaining>;
  readonly limits: LimitsDoor;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface UploadPrekeysInput {
  readonly signedPrekey?: SignedPrekey;
  readonly lastResortKemPrekey?: KemPrekey;
  readonly oneTimePrekeys: readonly OneTimePrekey[];
  readonly kemPrekeys: readonly KemPrekey[];
  /** Every waiting one-time prekey that is not in the call is handed out no more. */
  readonly replace: boolean;
}

const X25519_KEY_BYTES = 32;

/**
 * Prekeys in an agent's uploads: what was replaced or used stays for 62 days. Ten times the needs of an agent whom two hundred strangers write to every day; the
 * rows of one that means harm stay below a gigabyte.
 */
const PREKEYS_PER_DAY: Limit = { name: "prekeys", points: 10_000, seconds: 86_400 };

/**
 * @throws ApiRefusal `custody-mismatch`, `malformed`, `too-many`, `prekey-signature-invalid`, `rate-limited`; `Refusal` `prekey-conflict`, `too-many`; `Unavailable`
 */
export async function uploadPrekeys(
  deps: UploadPrekeysDeps,
  caller: { readonly agentId: string; readonly identityKey: Uint8Array; readonly custody: Custody },
  input: UploadPrekeysInput,
): Promise<Remaining> {
  // Nobody could open what is begun with a prekey whose private half the service does not have.
  if (caller.custody !== "agent") throw new ApiRefusal("custody-mismatch");
  const now = deps.now();
  const { signedPrekey, lastResortKemPrekey, oneTimePrekeys, kemPrekeys } = input;
  checkCount("/one_time_prekeys", oneTimePrekeys);
  checkCount("/kem_prekeys", kemPrekeys);
  checkIds(input);
  if (signedPrekey !== undefined) {
    checkX25519("/signed_prekey", signedPrekey);
    checkSignature("/signed_prekey", caller.identityKey, "signed-prekey", signedPrekey);
    checkBirth("/signed_prekey", signedPrekey, now);
  }
  if (lastResortKemPrekey !== undefined) {
    checkKem("/last_resort_kem_prekey", caller.identityKey, lastResortKemPrekey);
    checkBirth("/last_resort_kem_prekey", lastResortKemPrekey, now);
  }
  oneTimePrekeys.forEach((prekey, index) => {
    checkX25519(`/one_time_prekeys/${index}`, prekey);
  });
  kemPrekeys.forEach((prekey, index) => {
    checkKem(`/kem_prekeys/${index}`, caller.identityKey, prekey);
  });
  const count = 2 + oneTimePrekeys.length + kemPrekeys.length;
  const { allowed, retryAfterMs } = await deps.limits.consume(PREKEYS_PER_DAY, caller.agentId, count);
  if (!allowed) throw new ApiRefusal("rate-limited", { retryAfterMs });
  return deps.storePrekeys(caller.agentId, input, now);
}

function checkCount(field: string, prekeys: readonly unknown[]): void {
  if (prekeys.length > PREKEY_UPLOAD_MAX) {
    throw new ApiRefusal("too-many", {
      field,
      detail: `a call takes at most ${PREKEY_UPLOAD_MAX} one-time prekeys of a kind`,
    });
  }
}

function checkIds(input: UploadPrekeysInput): void {
  const { signedPrekey, lastResortKemPrekey, oneTimePrekeys, kemPrekeys, replace } = input;
  const named = [
    ...(signedPrekey === undefined ? [] : [{ field: "/signed_prekey", id: signedPrekey.id }]),
    ...(lastResortKemPrekey === undefined ? [] : [{ field: "/last_resort_kem_prekey", id: lastResortKemPrekey.id }]),
    ...oneTimePrekeys.map(({ id }, index) => ({ field: `/one_time_prekeys/${index}`, id })),
    ...kemPrekeys.map(({ id }, index) => ({ field: `/kem_prekeys/${index}`, id })),
  ];
  if (named.length === 0 && !replace) {
    throw new ApiRefusal("malformed", { field: "", detail: "there is no prekey in the call" });
  }
  const ids = new Set<string>();
  for (const { field, id } of named) {
    if (ids.has(id)) {
      throw new ApiRefusal("malformed", {
        field: `${field}/id`,
        detail: "the id stands in the call twice",
        fix: "Give every prekey an id of its own.",
      });
    }
    ids.add(id);
  }
}

function checkX25519(field: string, { publicKey }: OneTimePrekey): void {
  if (publicKey.length !== X25519_KEY_BYTES) {
    throw new ApiRefusal("malformed", { field: `${field}/public_key`, detail: "an X25519 public key has 32 bytes" });
  }
}

function checkKem(field: string, identityKey: Uint8Array, prekey: SignedPrekey): void {
  if (!isKemKey(prekey.publicKey)) {
    throw new ApiRefusal("malformed", {
      field: `${field}/public_key`,
      detail: "this is no ML-KEM-768 encapsulation key (FIPS 203 §7.2)",
    });
  }
  checkSignature(field, identityKey, "kem-prekey", prekey);
}

function checkSignature(field: string, identityKey: Uint8Array, kind: SignedPrekeyKind, prekey: SignedPrekey): void {
  if (!isPrekeySignatureValid(nodePrimitives, identityKey, kind, prekey)) {
    throw new ApiRefusal("prekey-signature-invalid", { field: `${field}/signature` });
  }
}

/** As ids of messages: a key made "tomorrow" would be honoured longer than its owner keeps it. One-time prekeys age by our clock. */
function checkBirth(field: string, { createdAt }: SignedPrekey, now: number): void {
  if (createdAt > now + PREKEY_AHEAD_MS_MAX) {
    throw new ApiRefusal("malformed", {
      field: `${field}/created_at`,
      detail: "created_at is more than 5 minutes ahead",
      fix: "Set the clock and make a new prekey.",
    });
  }
}
