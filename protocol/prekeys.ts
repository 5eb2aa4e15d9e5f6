/**
 * Prekeys (protocol.md §2): making and signing them, and the bundle an initiator fetches, with all its checks.
 */
import { encodeBase64Url } from "./base64url.ts";
import { ByteWriter, label } from "./bytes.ts";
import { checkIdentity, type Identity, isAgentId } from "./identity.ts";
import { JsonReader } from "./json-reader.ts";
import { isKemKey } from "./kem-key.ts";
import { SIGNED_PREKEY_AGE_MS_MAX } from "./limits.ts";
import {
  generateMlKem768,
  generateX25519,
  type KeyPair,
  type Primitives,
  type Random,
} from "./primitives/primitives.ts";
import { Refusal } from "./refusal.ts";
import { formatTimestamp } from "./timestamp.ts";
import { uuidToBytes } from "./uuid.ts";

const X25519_KEY_BYTES = 32;

const LABELS = {
  "signed-prekey": label("sealpost/v1/signed-prekey"),
  "kem-prekey": label("sealpost/v1/kem-prekey"),
} as const;

export type SignedPrekeyKind = keyof typeof LABELS;

/** What the signature of a prekey covers. */
export interface PrekeyFacts {
  /** UUID. */
  readonly id: string;
  /** Milliseconds. */
  readonly createdAt: number;
  readonly publicKey: Uint8Array;
}

export interface SignedPrekey extends PrekeyFacts {
  readonly signature: Uint8Array;
}

export interface KemPrekey extends SignedPrekey {
  /** It may be handed out repeatedly; the others are one-time prekeys. */
  readonly lastResort: boolean;
}

export interface OneTimePrekey {
  readonly id: string;
  readonly publicKey: Uint8Array;
}

/** A public prekey and its private half. */
export interface OwnPrekey<Public> {
  readonly prekey: Public;
  readonly pair: KeyPair;
}

/** One initiation's worth of an agent's public keys, not yet checked. */
export interface Bundle {
  readonly agentId: string;
  readonly identityKey: Uint8Array;
  readonly signedPrekey: SignedPrekey;
  readonly oneTimePrekey: OneTimePrekey | null;
  readonly kemPrekey: KemPrekey | null;
}

/** What a new signed prekey is made of. */
export interface PrekeyBirth {
  /** UUID. */
  readonly id: string;
  /** Milliseconds. */
  readonly now: number;
  readonly random: Random;
}

export function createSignedPrekey(
  primitives: Primitives,
  me: Identity,
  { id, now, random }: PrekeyBirth,
): OwnPrekey<SignedPrekey> {
  const pair = generateX25519(primitives, random);
  const facts = { id, createdAt: now, publicKey: pair.publicKey };
  return { prekey: { ...facts, signature: signPrekey(primitives, me, "signed-prekey", facts) }, pair };
}

export function createOneTimePrekey(primitives: Primitives, id: string, random: Random): OwnPrekey<OneTimePrekey> {
  const pair = generateX25519(primitives, random);
  return { prekey: { id, publicKey: pair.publicKey }, pair };
}

/** ML-KEM-768; the pair's private key is the seed. */
export function createKemPrekey(
  primitives: Primitives,
  me: Identity,
  { id, now, random, lastResort }: PrekeyBirth & Pick<KemPrekey, "lastResort">,
): OwnPrekey<KemPrekey> {
  const pair = generateMlKem768(primitives, random);
  const facts = { id, createdAt: now, publicKey: pair.publicKey };
  return { prekey: { ...facts, signature: signPrekey(primitives, me, "kem-prekey", facts), lastResort }, pair };
}

/** `label(…) ‖ id(16) ‖ u64(created_at) ‖ public key` */
function prekeySignedBytes(kind: SignedPrekeyKind, { id, createdAt, publicKey }: PrekeyFacts): Uint8Array {
  return new ByteWriter(LABELS[kind].length + 16 + 8 + publicKey.length)
    .bytes(LABELS[kind])
    .bytes(uuidToBytes(id))
    .u64(createdAt)
    .bytes(publicKey)
    .finish();
}

export function signPrekey(
  primitives: Primitives,
  me: Identity,
  kind: SignedPrekeyKind,
  facts: PrekeyFacts,
): Uint8Array {
  return primitives.ed25519Sign(me.signing, prekeySignedBytes(kind, facts));
}

/** `identityKey` has been checked. */
export function isPrekeySignatureValid(
  primitives: Primitives,
  identityKey: Uint8Array,
  kind: SignedPrekeyKind,
  prekey: SignedPrekey,
): boolean {
  return primitives.ed25519Verify(identityKey, prekeySignedBytes(kind, prekey), prekey.signature);
}

/** Refuses (`malformed`) what has not the form; nothing is verified here. */
export function bundleFromJson(json: unknown): Bundle {
  const object = new JsonReader(json);
  const bundle: Bundle = {
    agentId: object.string("agent_id"),
    identityKey: object.bytes("identity_key"),
    signedPrekey: signedPrekeyFrom(object.object("signed_prekey")),
    oneTimePrekey: object.has("one_time_prekey") ? oneTimePrekeyFrom(object.object("one_time_prekey")) : null,
    kemPrekey: object.has("kem_prekey") ? kemPrekeyFrom(object.object("kem_prekey")) : null,
  };
  if (!isAgentId(bundle.agentId)) throw new Refusal("malformed", { field: "/agent_id" });
  object.end();
  return bundle;
}

export function bundleToJson(bundle: Bundle): Record<string, unknown> {
  const { oneTimePrekey, kemPrekey } = bundle;
  return {
    agent_id: bundle.agentId,
    identity_key: encodeBase64Url(bundle.identityKey),
    signed_prekey: signedPrekeyToJson(bundle.signedPrekey),
    ...(oneTimePrekey !== null && { one_time_prekey: oneTimePrekeyToJson(oneTimePrekey) }),
    ...(kemPrekey !== null && {
      kem_prekey: { ...signedPrekeyToJson(kemPrekey), last_resort: kemPrekey.lastResort },
    }),
  };
}

export function signedPrekeyToJson(prekey: SignedPrekey): Record<string, unknown> {
  return {
    id: prekey.id,
    created_at: formatTimestamp(prekey.createdAt),
    public_key: encodeBase64Url(prekey.publicKey),
    signature: encodeBase64Url(prekey.signature),
  };
}

export function oneTimePrekeyToJson(prekey: OneTimePrekey): Record<string, unknown> {
  return { id: prekey.id, public_key: encodeBase64Url(prekey.publicKey) };
}

export interface BundleLimits {
  /** Default `SIGNED_PREKEY_AGE_MS_MAX`. */
  readonly signedPrekeyAgeMsMax?: number;
}

/**
 * The initiator's checks in their order: `identity-key-invalid`, `identity-mismatch`, `signature-invalid`, `bad-key`,
 * `prekey-stale`. `now` is the initiator's clock.
 */
export function checkBundle(
  primitives: Primitives,
  bundle: Bundle,
  now: number,
  { signedPrekeyAgeMsMax = SIGNED_PREKEY_AGE_MS_MAX }: BundleLimits = {},
): void {
  const { identityKey, signedPrekey, kemPrekey } = bundle;
  checkIdentity(primitives, bundle.agentId, identityKey);
  const signed =
    isPrekeySignatureValid(primitives, identityKey, "signed-prekey", signedPrekey) &&
    (kemPrekey === null || isPrekeySignatureValid(primitives, identityKey, "kem-prekey", kemPrekey));
  if (!signed) throw new Refusal("signature-invalid");
  if (kemPrekey !== null && !isKemKey(kemPrekey.publicKey)) throw new Refusal("bad-key");
  if (now - signedPrekey.createdAt > signedPrekeyAgeMsMax) throw new Refusal("prekey-stale");
}

function signedPrekeyFrom(object: JsonReader): SignedPrekey {
  const prekey = signedMembers(object, X25519_KEY_BYTES);
  object.end();
  return prekey;
}

function kemPrekeyFrom(object: JsonReader): KemPrekey {
  // The length of a KEM key is part of its own check (`bad-key`), not of the form.
  const prekey = { ...signedMembers(object), lastResort: object.boolean("last_resort") };
  object.end();
  return prekey;
}

function oneTimePrekeyFrom(object: JsonReader): OneTimePrekey {
  const prekey = { id: object.uuid("id"), publicKey: object.bytes("public_key", X25519_KEY_BYTES) };
  object.end();
  return prekey;
}

function signedMembers(object: JsonReader, publicKeyBytes?: number): SignedPrekey {
  return {
    id: object.uuid("id"),
    createdAt: object.timestamp("created_at"),
    publicKey: object.bytes("public_key", publicKeyBytes),
    signature: object.bytes("signature"),
  };
}
