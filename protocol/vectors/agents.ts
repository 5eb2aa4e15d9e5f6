/** The agents of the vectors and their prekeys, read and checked: every public half belongs to its private one, every signature is right. */
import { ml_kem768 } from "@noble/post-quantum/ml-kem.js";
import { type Identity, identityFromSeed } from "../identity.ts";
import {
  type Bundle,
  isPrekeySignatureValid,
  type KemPrekey,
  type OneTimePrekey,
  type SignedPrekey,
} from "../prekeys.ts";
import { type KeyPair, mlKem768PairFrom, type Primitives, x25519PairFrom } from "../primitives/primitives.ts";
import type { Checks, Fields } from "./case.ts";

/** An agent of a vector, by its seed. */
export function identityOf(primitives: Primitives, fields: Fields, checks: Checks): Identity {
  const identity = identityFromSeed(primitives, fields.bytes("seed"));
  checks.equal("identity_key", identity.signing.publicKey, fields.bytes("identity_key"));
  checks.equal("agent_id", identity.agentId, fields.string("agent_id"));
  return identity;
}

/** A signed prekey of a vector, with both halves. */
export function signedPrekeyOf(
  primitives: Primitives,
  owner: Identity,
  fields: Fields,
  checks: Checks,
): [SignedPrekey, KeyPair] {
  const pair = pairOf(primitives, fields, "private_key", "public_key", checks);
  const id = fields.string("id");
  const createdAt = fields.time("created_at");
  const prekey = { id, createdAt, publicKey: pair.publicKey, signature: fields.bytes("signature") };
  const { publicKey } = owner.signing;
  checks.equal("signature", isPrekeySignatureValid(primitives, publicKey, "signed-prekey", prekey), true);
  fields.end();
  return [prekey, pair];
}

/** A one-time prekey of a vector, with both halves. */
export function oneTimePrekeyOf(primitives: Primitives, fields: Fields, checks: Checks): [OneTimePrekey, KeyPair] {
  const pair = pairOf(primitives, fields, "private_key", "public_key", checks);
  const prekey = { id: fields.string("id"), publicKey: pair.publicKey };
  fields.end();
  return [prekey, pair];
}

/** A KEM prekey of a vector, with both halves. */
export function kemPrekeyOf(
  primitives: Primitives,
  owner: Identity,
  fields: Fields,
  checks: Checks,
): [KemPrekey, KeyPair] {
  const pair = mlKem768PairFrom(primitives, fields.bytes("seed"));
  checks.equal("public_key", pair.publicKey, fields.bytes("public_key"));
  const id = fields.string("id");
  const createdAt = fields.time("created_at");
  const lastResort = fields.boolean("last_resort");
  const prekey = { id, createdAt, publicKey: pair.publicKey, signature: fields.bytes("signature"), lastResort };
  const { publicKey } = owner.signing;
  checks.equal("signature", isPrekeySignatureValid(primitives, publicKey, "kem-prekey", prekey), true);
  // Primitives take the seed: whoever keeps the decapsulation key instead can hold it against this one.
  const privateKey = fields.optional("private_key") === undefined ? null : fields.bytes("private_key");
  if (privateKey !== null) checks.equal("private_key", ml_kem768.keygen(pair.privateKey).secretKey, privateKey);
  fields.end();
  return [prekey, pair];
}

/** An agent of a vector with the bundle it hands out. */
export function responderOf(primitives: Primitives, fields: Fields, checks: Checks) {
  const identity = identityOf(primitives, fields, checks);
  const [signedPrekey, signedPair] = signedPrekeyOf(primitives, identity, fields.fields("signed_prekey"), checks);
  const oneTime = fields.nullableFields("one_time_prekey");
  const [oneTimePrekey, oneTimePair] = oneTime === null ? [null, null] : oneTimePrekeyOf(primitives, oneTime, checks);
  const kem = fields.nullableFields("kem_prekey");
  const [kemPrekey, kemPair] = kem === null ? [null, null] : kemPrekeyOf(primitives, identity, kem, checks);
  fields.end();
  const bundle: Bundle = {
    agentId: identity.agentId,
    identityKey: identity.signing.publicKey,
    signedPrekey,
    oneTimePrekey,
    kemPrekey,
  };
  return { identity, bundle, pairs: { signedPrekey: signedPair, oneTimePrekey: oneTimePair, kemPrekey: kemPair } };
}

/** An X25519 pair of a vector. */
export function pairOf(
  primitives: Primitives,
  fields: Fields,
  privateName: string,
  publicName: string,
  checks: Checks,
): KeyPair {
  const pair = x25519PairFrom(primitives, fields.bytes(privateName));
  checks.equal(publicName, pair.publicKey, fields.bytes(publicName));
  return pair;
}
