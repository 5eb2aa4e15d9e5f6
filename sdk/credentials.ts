/**
 * What an agent shows the service beside its own key: who answers for it, when it registers, and another key that signs its calls.
 */
import { type Identity, identityFromSeed } from "../protocol/identity.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { AgentError } from "./errors.ts";
import type { Signer } from "./request-signature.ts";

/**
 * A statement of the agent's owner for the key that registers, or a token of the owner's provider (docs/identity.md); or what gets one for the thumbprint of
 * that key, asked only when the agent registers.
 */
export type OwnerStatement = string | ((keyId: string) => string | Promise<string>);

export interface Credentials {
  readonly ownerStatement?: OwnerStatement;
  /** The 32-byte seed of a signing key that the agent has added: it signs all calls but a registration. */
  readonly signingKey?: Uint8Array;
  /** The chain of delegation that every call but a registration presents (docs/delegation.md). */
  readonly delegation?: string | undefined;
}

const SEED_BYTES = 32;

/** The members of a registration that say who answers for the agent. */
export async function ownerMembers({ ownerStatement }: Credentials, me: Identity): Promise<Record<string, string>> {
  if (ownerStatement === undefined) return {};
  const statement = typeof ownerStatement === "string" ? ownerStatement : await ownerStatement(me.agentId);
  return { owner_statement: statement };
}

/** Who signs the agent's calls: `own`, or the signing key that was given. Throws `signing-key-malformed`. */
export function callSigner({ agentId, signing }: Signer, { signingKey, delegation }: Credentials): Signer {
  if (signingKey === undefined) return { agentId, signing, delegation };
  if (signingKey.length !== SEED_BYTES) {
    throw new AgentError("signing-key-malformed", "a signing key is given as its seed of 32 bytes");
  }
  const key = identityFromSeed(nodePrimitives, signingKey);
  return { agentId: key.agentId, signing: key.signing, delegation };
}
