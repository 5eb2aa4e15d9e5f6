/**
 * Stores an agent's public prekeys.
 *
 * Promise: only a signed prekey whose signature holds under the caller's identity key is stored; all of a call or nothing. The same
 * call again changes nothing; the same id with another key is refused. A new signed prekey replaces the older one for new bundles.
 */
import { isPrekeySignatureValid, type OneTimePrekey, type SignedPrekey } from "../../protocol/prekeys.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import { ApiRefusal } from "../problem.ts";

export interface UploadPrekeysDeps {
  /** In one transaction. Throws `Refusal` `prekey-conflict`, `Unavailable`. */
  readonly storePrekeys: (
    agentId: string,
    prekeys: { readonly signedPrekey?: SignedPrekey; readonly oneTimePrekeys: readonly OneTimePrekey[] },
    now: number,
  ) => Promise<{ readonly oneTimePrekeysRemaining: number }>;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface UploadPrekeysInput {
  readonly signedPrekey?: SignedPrekey;
  readonly oneTimePrekeys: readonly OneTimePrekey[];
}

/** Twice what an SDK keeps in stock; more in one call only makes one transaction long. */
export const ONE_TIME_PREKEYS_MAX = 200;

const X25519_KEY_BYTES = 32;

/** As ids of messages: a key made "tomorrow" would be honoured longer than its owner keeps it. */
const CREATED_AHEAD_MS_MAX = 5 * 60 * 1000;

/**
 * @throws ApiRefusal `malformed`, `too-many`, `prekey-signature-invalid`; `Refusal` `prekey-conflict`; `Unavailable`
 */
export async function uploadPrekeys(
  deps: UploadPrekeysDeps,
  caller: { readonly agentId: string; readonly identityKey: Uint8Array },
  input: UploadPrekeysInput,
): Promise<{ readonly oneTimePrekeysRemaining: number }> {
  const now = deps.now();
  if (input.signedPrekey !== undefined) checkSignedPrekey(caller.identityKey, input.signedPrekey, now);
  checkOneTimePrekeys(input.oneTimePrekeys);
  if (input.signedPrekey === undefined && input.oneTimePrekeys.length === 0) {
    throw new ApiRefusal("malformed", { field: "", detail: "there is no prekey in the call" });
  }
  return deps.storePrekeys(caller.agentId, input, now);
}

function checkSignedPrekey(identityKey: Uint8Array, prekey: SignedPrekey, now: number): void {
  if (prekey.publicKey.length !== X25519_KEY_BYTES) throw notAKey("/signed_prekey/public_key");
  if (!isPrekeySignatureValid(nodePrimitives, identityKey, "signed-prekey", prekey)) {
    throw new ApiRefusal("prekey-signature-invalid", { field: "/signed_prekey/signature" });
  }
  if (prekey.createdAt > now + CREATED_AHEAD_MS_MAX) {
    throw new ApiRefusal("malformed", {
      field: "/signed_prekey/created_at",
      detail: "created_at is more than 5 minutes ahead",
      fix: "Set the clock and make a new signed prekey.",
    });
  }
}

function checkOneTimePrekeys(prekeys: readonly OneTimePrekey[]): void {
  if (prekeys.length > ONE_TIME_PREKEYS_MAX) {
    throw new ApiRefusal("too-many", {
      field: "/one_time_prekeys",
      detail: `a call takes at most ${ONE_TIME_PREKEYS_MAX} one-time prekeys`,
    });
  }
  const ids = new Set<string>();
  prekeys.forEach(({ id, publicKey }, index) => {
    if (publicKey.length !== X25519_KEY_BYTES) throw notAKey(`/one_time_prekeys/${index}/public_key`);
    if (ids.has(id)) {
      throw new ApiRefusal("malformed", {
        field: `/one_time_prekeys/${index}/id`,
        detail: "the id stands in the call twice",
        fix: "Give every prekey an id of its own.",
      });
    }
    ids.add(id);
  });
}

function notAKey(field: string): ApiRefusal {
  return new ApiRefusal("malformed", { field, detail: "an X25519 public key has 32 bytes" });
}
