/**
 * An agent's signing keys: further keys that sign its requests (protocol.md §9).
 *
 * Promise: a key is taken only with a certificate by the agent's own key and a proof by itself, both over this agent, this key and this end; the
 * certificate of another agent, of another key or of another time opens nothing, nor does the key of somebody else.
 */
import { agentIdOf, checkIdentityKey } from "../../protocol/identity.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { isSigningKeySigned } from "../../protocol/signing-key.ts";
import type { Limit, LimitsDoor } from "../../store/limits.ts";
import type { NewSigningKey, SigningKey } from "../../store/signing-keys.ts";
import type { FindAgents } from "../agents.ts";
import { type Caller, ownKeyOf } from "../auth.ts";
import { ApiRefusal } from "../problem.ts";

export interface SigningKeysDeps {
  readonly findAgents: FindAgents;
  /**
   * In one transaction with its fact. Throws `Refusal` `signing-keys-full`, `signing-key-taken`, `signing-key-removed`, `signing-key-shorter`; `Unavailable`.
   */
  readonly putSigningKey: (
    key: NewSigningKey,
    now: number,
  ) => Promise<{ readonly key: SigningKey; readonly created: boolean }>;
  readonly removeSigningKey: (
    key: { readonly agentId: string; readonly keyId: string },
    now: number,
  ) => Promise<boolean>;
  readonly listSigningKeys: (agentId: string, now: number) => Promise<readonly SigningKey[]>;
  readonly limits: LimitsDoor;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface SigningKeyInput {
  readonly keyId: string;
  readonly publicKey: Uint8Array;
  readonly notAfter: number;
  readonly certificate: Uint8Array;
  readonly proof: Uint8Array;
}

/** What is certified is renewed by somebody once a year at least. */
const LIFE_MS_MAX = 366 * 24 * 60 * 60 * 1000;

/** Sixteen keys that are renewed every day, and room for mistakes; each is a fact for the world, and one that was removed stays for its life. */
const CHANGES_PER_HOUR: Limit = { name: "signing-keys", points: 60, seconds: 3_600 };

/**
 * @throws ApiRefusal `signing-key-invalid`, `signing-key-taken`, `rate-limited`; `Refusal` of the store; `Unavailable`
 */
export async function addSigningKey(
  deps: SigningKeysDeps,
  caller: Caller,
  input: SigningKeyInput,
): Promise<{ readonly key: SigningKey; readonly created: boolean }> {
  const now = deps.now();
  const { agentId } = caller;
  const agent = (await deps.findAgents([agentId])).get(agentId);
  if (agent === undefined) throw new Error("the caller is not registered");
  checkKey(input, now);
  const { keyId, publicKey, notAfter, certificate, proof } = input;
  const facts = { agentId, publicKey, notAfter };
  if (!isSigningKeySigned(nodePrimitives, "certificate", ownKeyOf(agent), facts, certificate)) {
    throw invalid("/certificate", "the certificate does not verify under the agent's own key");
  }
  if (!isSigningKeySigned(nodePrimitives, "proof", publicKey, facts, proof)) {
    throw invalid("/proof", "the proof does not verify under the signing key");
  }
  const { allowed, retryAfterMs } = await deps.limits.consume(CHANGES_PER_HOUR, agentId);
  if (!allowed) throw new ApiRefusal("rate-limited", { retryAfterMs });
  return deps.putSigningKey({ keyId, agentId, publicKey, notAfter, certificate }, now);
}

/** Answers whether it was in force. @throws Unavailable */
export function removeSigningKey(deps: SigningKeysDeps, { agentId }: Caller, keyId: string): Promise<boolean> {
  return deps.removeSigningKey({ agentId, keyId }, deps.now());
}

/** Those in force, the oldest first. @throws Unavailable */
export function ownSigningKeys(deps: SigningKeysDeps, { agentId }: Caller): Promise<readonly SigningKey[]> {
  return deps.listSigningKeys(agentId, deps.now());
}

function checkKey({ keyId, publicKey, notAfter }: SigningKeyInput, now: number): void {
  try {
    checkIdentityKey(publicKey);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    throw invalid("/public_key", "the key is not the canonical encoding of an Ed25519 point of prime order");
  }
  if (agentIdOf(nodePrimitives, publicKey) !== keyId) {
    throw invalid("key_id", "key_id is not the RFC 7638 thumbprint of public_key");
  }
  if (notAfter <= now) throw invalid("/not_after", "not_after is past");
  if (notAfter > now + LIFE_MS_MAX) throw invalid("/not_after", "not_after is more than 366 days ahead");
}

function invalid(field: string, detail: string): ApiRefusal {
  return new ApiRefusal("signing-key-invalid", { field, detail });
}
