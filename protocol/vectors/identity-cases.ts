import {
  agentIdOf,
  agreementPublicKey,
  checkIdentity,
  checkIdentityKey,
  identityFromSeed,
  isAgentId,
} from "../identity.ts";
import { type Case, Fields } from "./case.ts";

export function identityCases(file: Fields): Case[] {
  return [
    ...file.list("identities").map(identityCase),
    ...file.list("invalid_identity_keys").map(invalidKeyCase),
    ...file.list("agent_ids").map(agentIdCase),
  ];
}

function identityCase(value: unknown, index: number): Case {
  return {
    name: `identity ${index}`,
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const identityKey = fields.bytes("identity_key");
      const identity = identityFromSeed(primitives, fields.bytes("seed"));
      checks.equal("identity_key", identity.signing.publicKey, identityKey);
      checks.equal("agent_id", identity.agentId, fields.string("agent_id"));
      checks.equal("x25519_secret", identity.agreement.privateKey, fields.bytes("x25519_secret"));
      const x25519Public = fields.bytes("x25519_public");
      checks.equal("x25519_public of the secret", identity.agreement.publicKey, x25519Public);
      checks.equal("x25519_public of the key", agreementPublicKey(identityKey), x25519Public);
      checks.equal("is an agent id", isAgentId(identity.agentId), true);
      checkIdentity(primitives, identity.agentId, identityKey);
      fields.end();
    },
  };
}

function invalidKeyCase(value: unknown, index: number): Case {
  return {
    name: `invalid identity key ${index}: ${new Fields(value).comment("reason")}`,
    run: (_primitives, checks) => {
      const fields = new Fields(value);
      const identityKey = fields.bytes("identity_key");
      checks.refuses(() => checkIdentityKey(identityKey), ["identity-key-invalid"]);
      fields.comment("reason");
      fields.end();
    },
  };
}

function agentIdCase(value: unknown, index: number): Case {
  return {
    name: `agent id ${index}: ${new Fields(value).comment("reason")}`,
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const agentId = fields.string("agent_id");
      const identityKey = fields.bytes("identity_key");
      const matches = fields.boolean("matches");
      checks.equal("matches", agentIdOf(primitives, identityKey) === agentId, matches);
      if (!matches) checks.refuses(() => checkIdentity(primitives, agentId, identityKey), ["identity-mismatch"]);
      fields.comment("reason");
      fields.end();
    },
  };
}
