/**
 * Transcripts: two agents, step by step, with everything that the file says about each step.
 *
 * An agent's record goes through its bytes and back after every change, and every envelope through its canonical bytes, so
 * that the transcripts are tests of those too.
 */
import { encodeBase64Url } from "../base64url.ts";
import { EMPTY, equalBytes } from "../bytes.ts";
import {
  decodeEnvelope,
  type Envelope,
  encodeEnvelope,
  envelopeAad,
  envelopeFromJson,
  envelopeToJson,
} from "../envelope.ts";
import { encodeFrame } from "../frame.ts";
import { decodeInitiation } from "../initiation.ts";
import { agreedSecret, initiatorOutputs } from "../key-agreement.ts";
import { initiate, openEnvelope, sealMessage, sealRekeyAnswer, sendingSession } from "../peer.ts";
import { encodePeer } from "../peer-record.ts";
import { type Primitives, x25519PairFrom } from "../primitives/primitives.ts";
import { nextMessageKey } from "../ratchet.ts";
import { Refusal } from "../refusal.ts";
import { type Clock, REKEY_CONTENT_TYPE, type Session, sealFrame, sealInSession } from "../session.ts";
import { type Case, type Checks, Fields, Mismatch, scriptedRandom } from "./case.ts";
import { checkState, stateDigest } from "./ratchet-state.ts";
import {
  type Agent,
  agentOf,
  bundleOf,
  findSession,
  type Parties,
  partiesOf,
  peerOf,
  putPeer,
  putSession,
  sendingSessionId,
  sessionOf,
  sessionsOf,
  type World,
} from "./transcript.ts";

const STEPS: Readonly<Record<string, (world: World, step: Fields, index: number) => void>> = {
  initiate: initiateStep,
  encrypt: encryptStep,
  encrypt_discard: discardStep,
  decrypt: decryptStep,
  forget: forgetStep,
};

/** What a decrypt step came to. */
interface Outcome {
  /** Null when the message was delivered. */
  readonly error: string | null;
  readonly stateChanged: boolean;
  /** Had a message of this sender and id been delivered before? */
  readonly duplicate: boolean;
  readonly rekeyAnswerDue: boolean;
  readonly contentType?: string;
  readonly body?: Uint8Array;
}

export function ratchetCases(file: Fields): Case[] {
  return file.list("transcripts").map((value) => {
    const name = new Fields(value).string("name");
    return { name, run: (primitives, checks) => runTranscript(primitives, checks, value) };
  });
}

function runTranscript(primitives: Primitives, checks: Checks, value: unknown): void {
  const fields = new Fields(value);
  fields.string("name");
  fields.comment("description");
  const agents = fields.fields("agents");
  const a = agentOf(primitives, agents.fields("a"), checks);
  const b = agentOf(primitives, agents.fields("b"), checks);
  agents.end();
  const world: World = { primitives, checks, agents: { a, b }, envelopes: new Map(), initiated: { a: [], b: [] } };
  const steps = fields.list("steps");
  if (steps.length === 0) throw new Mismatch("a transcript without steps");
  let now = 0;
  for (const [index, step] of steps.entries()) now = runStep(world, new Fields(step), index);
  checkEnd(world, fields, now);
  fields.end();
}

/** Gives the step's time. */
function runStep(world: World, step: Fields, index: number): number {
  const op = step.string("op");
  try {
    const run = STEPS[op];
    if (run === undefined) throw new Mismatch("an unknown op");
    run(world, step, index);
    const now = step.time("now");
    step.end();
    return now;
  } catch (error) {
    throw new Mismatch(`step ${index}, ${op}: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}

function checkEnd({ agents: { a, b }, checks, initiated }: World, fields: Fields, now: number): void {
  if (a === undefined || b === undefined) throw new Mismatch("two agents are needed");
  const last = fields.optional("active_session_at_end");
  if (last !== undefined) {
    checks.equal("a's active_session_at_end", sendingSessionId(a, b, now), last);
    checks.equal("b's active_session_at_end", sendingSessionId(b, a, now), last);
  }
  for (const by of ["a", "b"]) {
    const own = fields.optional(`session_of_${by}`);
    if (own !== undefined) checks.equal(`session_of_${by}`, initiated[by]?.[0], own);
  }
}

function initiateStep(world: World, step: Fields): void {
  const { primitives, checks } = world;
  const parties = partiesOf(world, step);
  const { by, me, other } = parties;
  const now = step.time("now");
  const ephemeral = step.bytes("ephemeral_private_key");
  const ratchetKey = step.bytes("ratchet_private_key");
  const bundle = bundleOf(other, step);
  const kemRandomness = step.nullableBytes("kem_randomness");
  // A copy, since m is wiped when it has been used.
  const script = scriptedRandom([ephemeral, ...(kemRandomness === null ? [] : [kemRandomness.slice()]), ratchetKey]);
  const peer = peerOf(me, bundle.agentId);
  putPeer(me, initiate(primitives, me.identity, peer, bundle, { now, random: script.random }));
  checks.equal("randomness left", script.left(), 0);
  const session = sessionOf(me, other, step.bytes("session_id"));
  const initiation = step.bytes("initiation");
  checks.equal("initiation", session.unanswered?.initiation, initiation);
  checks.equal("suite", decodeInitiation(initiation).suite, step.number("suite"));
  checks.equal("ratchet_private_key", session.ratchet.own.privateKey, ratchetKey);
  const outputs = initiatorOutputs(primitives, me.identity, x25519PairFrom(primitives, ephemeral), {
    identityKey: bundle.identityKey,
    signedPrekey: bundle.signedPrekey.publicKey,
    oneTimePrekey: bundle.oneTimePrekey?.publicKey ?? null,
  });
  const { kemPrekey } = bundle;
  const kem =
    kemPrekey === null || kemRandomness === null
      ? null
      : primitives.mlKem768Encapsulate(kemPrekey.publicKey, kemRandomness);
  const secret = agreedSecret(primitives, outputs, kem?.sharedSecret ?? null);
  checks.equal("shared_secret", secret, step.bytes("shared_secret"));
  checkState(primitives, checks, step.fields("state"), session, now);
  checkActive(world, step, parties);
  world.initiated[by]?.push(session.id);
}

function encryptStep(world: World, step: Fields, index: number): void {
  const { primitives, checks } = world;
  const parties = partiesOf(world, step);
  const { me, other } = parties;
  const before = sessionOf(me, other, step.bytes("session_id"));
  const script = scriptedRandom([step.bytes("nonce")]);
  const now = step.time("now");
  checks.equal("ratchet_private_key", before.ratchet.own.privateKey, step.bytes("ratchet_private_key"));
  const envelope = sealStep(world, step, parties, before, { now, random: script.random });
  checks.equal("randomness left", script.left(), 0);
  checks.equal("envelope", envelopeToJson(envelope), step.value("envelope"));
  checks.equal("canonical bytes", decodeEnvelope(encodeEnvelope(envelope)), envelope);
  checks.equal("aad", envelopeAad(envelope), step.bytes("aad"));
  checks.equal("timestamp", envelope.timestamp, step.time("timestamp"));
  checks.equal("flags", envelope.flags, step.number("flags"));
  checks.equal("first_in_chain", envelope.sendCounter === 1, step.boolean("first_in_chain"));
  checkState(primitives, checks, step.fields("state"), sessionOf(me, other, before.id), now);
  world.envelopes.set(index, step.value("envelope"));
}

/** Seals as an agent does where it would, and beneath that what no agent sends: bad frames, foreign flags, other sessions. */
function sealStep(
  { primitives, checks }: World,
  step: Fields,
  { me, other }: Parties,
  before: Session,
  clock: Clock,
): Envelope {
  const peer = peerOf(me, other.identity.agentId);
  const message = {
    messageId: step.string("message_id"),
    contentType: step.string("content_type"),
    body: step.bytes("body"),
  };
  const outgoing = { ...message, recipientId: peer.agentId };
  const badFrame = step.optional("bad_frame") === undefined ? null : step.bytes("bad_frame");
  if (step.optional("as_is") === true || badFrame !== null) {
    const forced = { ...outgoing, frame: badFrame ?? encodeFrame(message), flags: step.number("flags") };
    const sealed = sealFrame(primitives, me.identity, before, forced, clock);
    putSession(me, other, sealed.session);
    return sealed.envelope;
  }
  if (me.owesAnswerIn !== null) {
    checks.equal("the content type of the answer owed", message.contentType, REKEY_CONTENT_TYPE);
    checks.equal("the body of the answer owed", message.body, EMPTY);
    checks.equal("the session of the answer owed", before.id, me.owesAnswerIn);
    const answer = { sessionId: me.owesAnswerIn, messageId: message.messageId };
    const sealed = sealRekeyAnswer(primitives, me.identity, peer, answer, clock);
    if (sealed === null) throw new Mismatch("the session that asked is gone");
    me.owesAnswerIn = null;
    putPeer(me, sealed.peer);
    return sealed.envelope;
  }
  const sending = sendingSession(peer, clock.now);
  if (sending !== null && equalBytes(sending.id, before.id)) {
    const sealed = sealMessage(primitives, me.identity, peer, message, clock);
    putPeer(me, sealed.peer);
    return sealed.envelope;
  }
  const sealed = sealInSession(primitives, me.identity, before, outgoing, clock);
  putSession(me, other, sealed.session);
  return sealed.envelope;
}

function discardStep(world: World, step: Fields): void {
  const { primitives, checks } = world;
  const { me, other } = partiesOf(world, step);
  const now = step.time("now");
  const before = sessionOf(me, other, step.bytes("session_id"));
  let { ratchet } = before;
  for (let left = step.number("count"); left > 0; left--) ratchet = nextMessageKey(primitives, ratchet, now).ratchet;
  const after = { ...before, ratchet };
  putSession(me, other, after);
  checkState(primitives, checks, step.fields("state"), after, now);
}

function decryptStep(world: World, step: Fields): void {
  const { primitives, checks } = world;
  const parties = partiesOf(world, step);
  const { me, other } = parties;
  const now = step.time("now");
  const newKey = step.optional("ratchet_private_key") === undefined ? null : step.bytes("ratchet_private_key");
  const script = scriptedRandom(newKey === null ? [] : [newKey]);
  const outcome = receive(world, me, changedEnvelope(world, step), { now, random: script.random });
  checkOutcome(checks, step, outcome);
  checks.equal("randomness left", script.left(), 0);
  const session = findSession(me, other, step.bytes("session_id"));
  if (outcome.stateChanged) {
    if (session === null) throw new Mismatch("no such session");
    checkState(primitives, checks, step.fields("state"), session, now);
    if (newKey !== null) checks.equal("ratchet_private_key", session.ratchet.own.privateKey, newKey);
  } else {
    const digest = session === null ? null : stateDigest(primitives, session.ratchet, now);
    checks.equal("state_digest", digest, step.value("state_digest"));
  }
  if (step.optional("rekey_answer_due") === true) me.owesAnswerIn = step.bytes("session_id");
  const oneTimeLeft = step.optional("one_time_prekeys_left");
  if (oneTimeLeft !== undefined) checks.equal("one_time_prekeys_left", me.oneTimePairs.size, oneTimeLeft);
  const kemLeft = step.optional("kem_prekeys_left");
  const kemOneTime = [...me.kemPairs.values()].filter(({ lastResort }) => !lastResort);
  if (kemLeft !== undefined) checks.equal("kem_prekeys_left", kemOneTime.length, kemLeft);
  step.comment("note");
  checkActive(world, step, parties);
}

function checkOutcome(checks: Checks, step: Fields, outcome: Outcome): void {
  const error = step.optional("error") ?? null;
  const alsoRight = step.optional("error_also") === undefined ? [] : step.list("error_also");
  const isRight = outcome.error === error || alsoRight.includes(outcome.error);
  checks.equal("error", isRight ? error : outcome.error, error);
  if (error === null) {
    checks.equal("content_type", outcome.contentType, step.string("content_type"));
    checks.equal("body", outcome.body, step.bytes("body"));
  } else {
    checks.equal("state_changes", outcome.stateChanged, step.boolean("state_changes"));
  }
  checks.equal("duplicate", outcome.duplicate, step.optional("duplicate") ?? false);
  const due = step.optional("rekey_answer_due");
  if (due !== undefined) checks.equal("rekey_answer_due", outcome.rekeyAnswerDue, due);
}

/** The JSON of an earlier step's envelope with the fields in `replace` put over it and those in `remove` taken away. */
function changedEnvelope({ envelopes }: World, step: Fields): unknown {
  const sent = envelopes.get(step.number("envelope_of"));
  if (sent === undefined) throw new Mismatch("envelope_of names no envelope");
  const replaced = { ...sent, ...(step.optional("replace") as object | undefined) };
  const removed = step.optional("remove") === undefined ? [] : step.list("remove");
  return Object.fromEntries(Object.entries(replaced).filter(([name]) => !removed.includes(name)));
}

function receive({ primitives, checks }: World, me: Agent, json: unknown, clock: Clock): Outcome {
  const before = recordsOf(me);
  let duplicate = false;
  try {
    const read = envelopeFromJson(json);
    checks.equal("the envelope's JSON made anew", envelopeToJson(read), json);
    const envelope = decodeEnvelope(encodeEnvelope(read));
    const messageKey = `${envelope.senderId} ${envelope.messageId}`;
    duplicate = me.delivered.has(messageKey);
    const opened = openEnvelope(primitives, me.identity, prekeysOf(me), peerOf(me, envelope.senderId), envelope, clock);
    putPeer(me, opened.peer);
    for (const id of opened.usedPrekeys) {
      checks.equal("a used prekey was there", me.oneTimePairs.delete(id) || me.kemPairs.delete(id), true);
    }
    const { frame, rekeyAnswerDue } = opened;
    if (typeof frame === "string") return { error: frame, stateChanged: true, duplicate, rekeyAnswerDue };
    me.delivered.add(messageKey);
    return { error: null, stateChanged: true, duplicate, rekeyAnswerDue, ...frame };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    checks.equal("all records after a refusal", recordsOf(me), before);
    return { error: error.code, stateChanged: false, duplicate, rekeyAnswerDue: false };
  }
}

function prekeysOf(me: Agent) {
  return {
    signedPrekey: (id: string) => me.signedPairs.get(id) ?? null,
    oneTimePrekey: (id: string) => me.oneTimePairs.get(id) ?? null,
    kemPrekey: (id: string) => me.kemPairs.get(id) ?? null,
    kemPublished: me.kemPrekeys.size > 0,
  };
}

function recordsOf(me: Agent): Uint8Array[] {
  return [...me.peers.values()].map(encodePeer);
}

function forgetStep(world: World, step: Fields): void {
  const parties = partiesOf(world, step);
  const { me, other } = parties;
  const lost = step.list("session_ids");
  const held = sessionsOf(me, other).map(({ id }) => encodeBase64Url(id));
  world.checks.equal(
    "sessions that can be lost",
    lost.filter((id) => !held.includes(id as string)),
    [],
  );
  const peer = peerOf(me, other.identity.agentId);
  const isKept = ({ id }: Session) => !lost.includes(encodeBase64Url(id));
  const active = peer.active !== null && isKept(peer.active) ? peer.active : null;
  putPeer(me, { ...peer, active, archived: peer.archived.filter(isKept) });
  checkActive(world, step, parties);
}

function checkActive({ checks }: World, step: Fields, { me, other }: Parties): void {
  checks.equal("active_session", sendingSessionId(me, other, step.time("now")), step.value("active_session"));
}
