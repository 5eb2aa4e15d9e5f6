/** The two agents of a ratchet transcript, and what lies between their steps. */
import { encodeBase64Url } from "../base64url.ts";
import { equalBytes } from "../bytes.ts";
import type { Identity } from "../identity.ts";
import { type OwnKemPrekey, type Peer, sendingSession, unknownPeer } from "../peer.ts";
import { decodePeer, encodePeer } from "../peer-record.ts";
import type { Bundle, KemPrekey, OneTimePrekey, SignedPrekey } from "../prekeys.ts";
import type { KeyPair, Primitives } from "../primitives/primitives.ts";
import type { Session } from "../session.ts";
import { identityOf, kemPrekeyOf, oneTimePrekeyOf, signedPrekeyOf } from "./agents.ts";
import { type Checks, Fields, Mismatch } from "./case.ts";

export interface Agent {
  readonly identity: Identity;
  /** All it has ever published. */
  readonly signedPrekeys: ReadonlyMap<string, SignedPrekey>;
  readonly oneTimePrekeys: ReadonlyMap<string, OneTimePrekey>;
  readonly kemPrekeys: ReadonlyMap<string, KemPrekey>;
  readonly signedPairs: ReadonlyMap<string, KeyPair>;
  /** The private halves that are left. */
  readonly oneTimePairs: Map<string, KeyPair>;
  readonly kemPairs: Map<string, OwnKemPrekey>;
  readonly peers: Map<string, Peer>;
  /** `sender message` of all that was delivered. */
  readonly delivered: Set<string>;
  /** The session in which its next message is the answer to a rekey request. */
  owesAnswerIn: Uint8Array | null;
}

export interface World {
  readonly primitives: Primitives;
  readonly checks: Checks;
  readonly agents: Readonly<Record<string, Agent>>;
  /** As JSON, by the number of the step that made them. */
  readonly envelopes: Map<number, unknown>;
  /** The sessions that each agent initiated, in order. */
  readonly initiated: Readonly<Record<string, Uint8Array[]>>;
}

export interface Parties {
  readonly by: string;
  readonly me: Agent;
  readonly other: Agent;
}

export function agentOf(primitives: Primitives, fields: Fields, checks: Checks): Agent {
  const identity = identityOf(primitives, fields, checks);
  const signed = fields
    .list("signed_prekeys")
    .map((value) => signedPrekeyOf(primitives, identity, new Fields(value), checks));
  const oneTime = fields
    .list("one_time_prekeys")
    .map((value) => oneTimePrekeyOf(primitives, new Fields(value), checks));
  const kem = fields.list("kem_prekeys").map((value) => kemPrekeyOf(primitives, identity, new Fields(value), checks));
  fields.end();
  return {
    identity,
    signedPrekeys: new Map(signed.map(([prekey]) => [prekey.id, prekey])),
    oneTimePrekeys: new Map(oneTime.map(([prekey]) => [prekey.id, prekey])),
    kemPrekeys: new Map(kem.map(([prekey]) => [prekey.id, prekey])),
    signedPairs: new Map(signed.map(([prekey, pair]) => [prekey.id, pair])),
    oneTimePairs: new Map(oneTime.map(([prekey, pair]) => [prekey.id, pair])),
    kemPairs: new Map(kem.map(([{ id, lastResort }, pair]) => [id, { pair, lastResort }])),
    peers: new Map(),
    delivered: new Set(),
    owesAnswerIn: null,
  };
}

export function partiesOf({ agents }: World, step: Fields): Parties {
  const by = step.string("by");
  const me = agents[by];
  const other = agents[by === "a" ? "b" : "a"];
  if (me === undefined || other === undefined) throw new Mismatch("an unknown agent");
  return { by, me, other };
}

/** A bundle of the other agent with the prekeys that an initiate step names. */
export function bundleOf(other: Agent, step: Fields): Bundle {
  const signedPrekey = other.signedPrekeys.get(step.string("signed_prekey"));
  const oneTimeId = step.nullableString("one_time_prekey");
  const oneTimePrekey = oneTimeId === null ? null : other.oneTimePrekeys.get(oneTimeId);
  const kemId = step.nullableString("kem_prekey");
  const kemPrekey = kemId === null ? null : other.kemPrekeys.get(kemId);
  if (signedPrekey === undefined || oneTimePrekey === undefined || kemPrekey === undefined)
    throw new Mismatch("a prekey that nobody has published");
  const { agentId, signing } = other.identity;
  return { agentId, identityKey: signing.publicKey, signedPrekey, oneTimePrekey, kemPrekey };
}

export function peerOf(agent: Agent, peerId: string): Peer {
  return agent.peers.get(peerId) ?? unknownPeer(peerId);
}

/** Keeps what comes out of the record's bytes. */
export function putPeer(agent: Agent, peer: Peer): void {
  agent.peers.set(peer.agentId, decodePeer(encodePeer(peer)));
}

/** Every session that the agent holds with the other. */
export function sessionsOf(me: Agent, other: Agent): Session[] {
  const { active, archived } = peerOf(me, other.identity.agentId);
  return active === null ? [...archived] : [...archived, active];
}

export function findSession(me: Agent, other: Agent, id: Uint8Array): Session | null {
  return sessionsOf(me, other).find((session) => equalBytes(session.id, id)) ?? null;
}

export function sessionOf(me: Agent, other: Agent, id: Uint8Array): Session {
  const session = findSession(me, other, id);
  if (session === null) throw new Mismatch("no such session");
  return session;
}

/** Puts a changed session back where it was, without any rule. */
export function putSession(me: Agent, other: Agent, session: Session): void {
  const peer = peerOf(me, other.identity.agentId);
  const changed = (one: Session) => (equalBytes(one.id, session.id) ? session : one);
  putPeer(me, {
    ...peer,
    active: peer.active === null ? null : changed(peer.active),
    archived: peer.archived.map(changed),
  });
}

/** Where the agent would now send to the other: the session's id in base64url, or null. */
export function sendingSessionId(me: Agent, other: Agent, now: number): string | null {
  const session = sendingSession(peerOf(me, other.identity.agentId), now);
  return session === null ? null : encodeBase64Url(session.id);
}
