import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AgentForTests, CONTENT_TYPE, type Reception, seededRandom } from "./agent-for-tests.ts";
import { decodeEnvelope, type Envelope, encodeEnvelope } from "./envelope.ts";
import { decodeInitiation, encodeInitiation } from "./initiation.ts";
import { DAY_MS, INITIATIONS_PER_PREKEY_MAX } from "./limits.ts";
import { forgetOldInitiations, sendingSession, unknownPeer } from "./peer.ts";
import { decodePeer, encodePeer } from "./peer-record.ts";
import { nodePrimitives as primitives } from "./primitives/node.ts";
import { Refusal } from "./refusal.ts";
import { REKEY_CONTENT_TYPE, REKEY_REQUESTED } from "./session.ts";

const START = Date.UTC(2026, 11, 1);
const HOUR_MS = DAY_MS / 24;

type Suite = 1 | 2;

/** Two agents and a clock that never stands still. In suite 2 both have published a KEM prekey of last resort. */
class Scene {
  readonly a: AgentForTests;
  readonly b: AgentForTests;
  now = START;

  constructor(seed: number, suite: Suite = 1) {
    const random = seededRandom(primitives, seed);
    this.a = new AgentForTests(primitives, random, this.now);
    this.b = new AgentForTests(primitives, random, this.now);
    if (suite === 2) for (const agent of [this.a, this.b]) agent.addKemPrekey(this.now, true);
  }

  tick(ms = 1): number {
    this.now += ms;
    return this.now;
  }

  other(agent: AgentForTests): AgentForTests {
    return agent === this.a ? this.b : this.a;
  }

  send(from: AgentForTests, text = "hello"): Envelope {
    return from.send(this.other(from), bytesOf(text), this.tick());
  }

  receive(to: AgentForTests, envelope: Envelope): Reception {
    return to.receive(envelope, this.tick());
  }

  /** Sends and receives at once. */
  say(from: AgentForTests, text = "hello"): Reception {
    return this.receive(this.other(from), this.send(from, text));
  }

  activeId(agent: AgentForTests): string {
    return String(agent.peer(this.other(agent).id).active?.id);
  }
}

function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function textOf(reception: Reception): string {
  if (reception.kind !== "opened") return reception.kind === "refused" ? reception.code : reception.kind;
  return typeof reception.frame === "string" ? reception.frame : new TextDecoder().decode(reception.frame.body);
}

function codeOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof Refusal) return error.code;
    throw error;
  }
  return "accepted";
}

/** Two agents that have heard of each other. */
function acquainted(seed: number, suite: Suite = 1): Scene {
  const scene = new Scene(seed, suite);
  scene.say(scene.a);
  scene.say(scene.b);
  return scene;
}

type Flight = { readonly to: AgentForTests; readonly envelope: Envelope; readonly text: string };

const seed = fc.nat();
const suite = fc.constantFrom<Suite>(1, 2);
const side = fc.constantFrom("a" as const, "b" as const);
const walkStep = fc.oneof(
  fc.record({ op: fc.constant("send" as const), by: side }),
  fc.record({ op: fc.constant("deliver" as const), at: fc.nat() }),
);

describe("a message", () => {
  test("opens to what was sealed", () => {
    fc.assert(
      fc.property(
        seed,
        suite,
        fc.uint8Array({ maxLength: 2_000 }),
        fc.string({ maxLength: 80 }),
        (n, of, body, contentType) => {
          fc.pre(contentType !== REKEY_CONTENT_TYPE);
          const { a, b, now } = new Scene(n, of);
          const reception = b.receive(a.send(b, body, now, contentType), now);
          expect(reception).toMatchObject({ kind: "opened", frame: { contentType, body } });
        },
      ),
    );
  });

  test("opens whatever the order in which messages arrive", () => {
    fc.assert(
      fc.property(seed, suite, fc.array(walkStep, { maxLength: 60 }), fc.nat(), (n, of, steps, order) => {
        const scene = new Scene(n, of);
        const flight: Flight[] = [];
        const deliver = (at: number) => {
          const [next] = flight.splice(at % flight.length, 1) as [Flight];
          expect(textOf(scene.receive(next.to, next.envelope))).toBe(next.text);
        };
        for (const [index, step] of steps.entries()) {
          if (step.op === "send") {
            const text = `message ${index}`;
            flight.push({ to: scene.other(scene[step.by]), envelope: scene.send(scene[step.by], text), text });
          } else if (flight.length > 0) {
            deliver(step.at);
          }
        }
        while (flight.length > 0) deliver(order + flight.length);
      }),
    );
  });

  test("that is damaged in any bit is refused and leaves the record as it was", () => {
    fc.assert(
      fc.property(seed, suite, fc.array(walkStep, { maxLength: 12 }), side, fc.nat(), (n, of, steps, by, bit) => {
        const scene = new Scene(n, of);
        scene.b.addOneTimePrekey(scene.now);
        if (of === 2) scene.b.addKemPrekey(scene.now, false);
        const waiting: Flight[] = [];
        for (const step of steps) {
          if (step.op === "send") {
            const sender = scene[step.by];
            waiting.push({ to: scene.other(sender), envelope: scene.send(sender), text: "" });
          } else {
            const next = waiting.pop();
            if (next !== undefined) scene.receive(next.to, next.envelope);
          }
        }
        const to = scene.other(scene[by]);
        const canonical = encodeEnvelope(scene.send(scene[by]));
        const damaged = canonical.slice();
        const at = bit % (8 * damaged.length);
        damaged[at >> 3] = (damaged[at >> 3] as number) ^ (1 << (at & 7));
        const before = encodePeer(to.peer(scene[by].id));
        const prekeysBefore = [to.oneTimePairs.size, to.kemPairs.size];
        expect(codeOf(() => to.open(decodeEnvelope(damaged), scene.now))).not.toBe("accepted");
        expect(encodePeer(to.peer(scene[by].id))).toEqual(before);
        expect([to.oneTimePairs.size, to.kemPairs.size]).toEqual(prekeysBefore);
        expect(scene.receive(to, decodeEnvelope(canonical)).kind).toBe("opened");
      }),
      { numRuns: 300 },
    );
  });

  test("changes nothing of the peer it was opened with", () => {
    const scene = acquainted(1);
    const envelope = scene.send(scene.a);
    const peer = scene.b.peer(scene.a.id);
    const before = encodePeer(peer);
    scene.b.open(envelope, scene.now);
    expect(encodePeer(peer)).toEqual(before);
  });

  test("opens once: later it is gone", () => {
    const scene = acquainted(2);
    const envelope = scene.send(scene.a);
    expect(scene.receive(scene.b, envelope).kind).toBe("opened");
    expect(codeOf(() => scene.b.open(envelope, scene.now))).toBe("message-key-gone");
    expect(scene.receive(scene.b, envelope).kind).toBe("duplicate");
  });

  test("for another agent is refused before anything else", () => {
    const scene = new Scene(3);
    const envelope = { ...scene.send(scene.a), recipientId: scene.a.id, initiation: new Uint8Array(0) };
    expect(codeOf(() => scene.b.open(envelope, scene.now))).toBe("wrong-recipient");
  });

  test.each([
    ["bad-frame", Uint8Array.of(2, 0, 0, 0, 0, 0, 0)],
    ["bad-padding", Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 1)],
  ])("with a frame that is bad (%s) is refused for good, and its key is used up", (fault, frame) => {
    const scene = acquainted(4);
    const envelope = scene.a.sendFrame(scene.b, frame, scene.tick());
    expect(scene.receive(scene.b, envelope)).toMatchObject({ kind: "opened", frame: fault, rekeyAnswerDue: false });
    expect(codeOf(() => scene.b.open(envelope, scene.now))).toBe("message-key-gone");
    expect(textOf(scene.say(scene.a, "next"))).toBe("next");
  });

  test("under the signed prekey that began the session is no message of an earlier chain, since none came under it", () => {
    const scene = acquainted(6);
    const dhPublicKey = scene.b.bundle().signedPrekey.publicKey;
    const forged = { ...scene.send(scene.b), dhPublicKey };
    expect(codeOf(() => scene.a.open(forged, scene.now))).toBe("auth-failed");
  });

  test("of 30 days ago opens with a skipped key, and later not", () => {
    const scene = acquainted(5);
    const [early, late, third] = [scene.send(scene.a), scene.send(scene.a), scene.send(scene.a)];
    scene.receive(scene.b, third);
    const stored = scene.now;
    expect(scene.b.receive(early, stored + 30 * DAY_MS).kind).toBe("opened");
    expect(scene.b.receive(late, stored + 30 * DAY_MS + 1)).toMatchObject({ code: "message-key-gone" });
  });
});

describe("prekeys", () => {
  test("a one-time prekey is used up by the message that opens, not by one that does not", () => {
    const scene = new Scene(10);
    scene.b.addOneTimePrekey(scene.now);
    const envelope = scene.send(scene.a);
    const forged = { ...envelope, authTag: new Uint8Array(16) };
    expect(scene.receive(scene.b, forged)).toMatchObject({ code: "auth-failed" });
    expect(scene.b.oneTimePairs.size).toBe(1);
    expect(scene.receive(scene.b, envelope)).toMatchObject({ kind: "opened", usedPrekeys: [expect.any(String)] });
    expect(scene.b.oneTimePairs.size).toBe(0);
  });

  test("a second start with a used one-time prekey is refused", () => {
    const scene = new Scene(11);
    scene.b.addOneTimePrekey(scene.now);
    const envelope = scene.send(scene.a);
    scene.b.oneTimePairs.clear();
    expect(scene.receive(scene.b, envelope)).toMatchObject({ code: "prekey-unknown" });
  });

  test("a start is not accepted again when its session is gone, one-time prekey or not", () => {
    const scene = new Scene(12);
    const [first, second] = [scene.send(scene.a), scene.send(scene.a)];
    scene.receive(scene.b, first);
    scene.b.loseSessions(scene.a);
    expect(codeOf(() => scene.b.open(first, scene.now))).toBe("message-key-gone");
    expect(codeOf(() => scene.b.open(second, scene.now))).toBe("message-key-gone");
  });

  test("a start is forgotten when its signed prekey's private half is gone: then that refuses it", () => {
    const scene = new Scene(16);
    scene.say(scene.a);
    const peer = scene.b.peer(scene.a.id);
    const pair = { publicKey: new Uint8Array(32), privateKey: new Uint8Array(32) };
    expect(forgetOldInitiations(peer, { signedPrekey: () => pair })).toBe(peer);
    expect(forgetOldInitiations(peer, { signedPrekey: () => null })).toEqual({ ...peer, remembered: [] });
  });

  test("one peer begins so many sessions with one signed prekey, and no more until the next", () => {
    const scene = new Scene(17);
    for (let begun = 0; begun < INITIATIONS_PER_PREKEY_MAX; begun++) {
      scene.say(scene.a);
      scene.a.loseSessions(scene.b);
    }
    const one = scene.send(scene.a);
    expect(codeOf(() => scene.b.open(one, scene.now))).toBe("prekey-unknown");
    expect(scene.b.peer(scene.a.id).remembered).toHaveLength(INITIATIONS_PER_PREKEY_MAX);
  });

  test("an agent that has published a KEM prekey refuses suite 1, also when its KEM prekeys are used up", () => {
    const scene = new Scene(13);
    const { a, b } = scene;
    const early = scene.send(a);
    b.addKemPrekey(scene.now, false);
    expect(codeOf(() => b.open(early, scene.now))).toBe("suite-refused");
    b.oneTimePairs.clear();
    b.kemPairs.clear();
    expect(codeOf(() => b.open(early, scene.now))).toBe("suite-refused");
  });

  test("a bundle from which the KEM prekey was taken begins what its owner refuses", () => {
    const scene = new Scene(17, 2);
    const { a, b } = scene;
    a.start({ id: b.id, bundle: () => ({ ...b.bundle(), kemPrekey: null }) }, scene.now);
    expect(scene.receive(b, scene.send(a))).toMatchObject({ code: "suite-refused" });
  });

  test("a bundle with a KEM prekey begins suite 2, and its header has 1,202 bytes at most", () => {
    const scene = new Scene(18, 2);
    scene.b.addOneTimePrekey(scene.now);
    const { initiation } = scene.send(scene.a);
    expect(decodeInitiation(initiation)).toMatchObject({ suite: 2, kemPrekeyId: [...scene.b.kemPairs.keys()][0] });
    expect(initiation.length).toBe(1_202);
  });

  test("one-time prekeys of both kinds are used up together, by the message that opens", () => {
    const scene = new Scene(19, 2);
    const { a, b } = scene;
    b.addOneTimePrekey(scene.now);
    b.addKemPrekey(scene.now, false);
    const oneTimeIds = [...b.oneTimePairs.keys(), ...[...b.kemPairs.keys()].slice(1)];
    const envelope = scene.send(a);
    expect(scene.receive(b, { ...envelope, authTag: new Uint8Array(16) })).toMatchObject({ code: "auth-failed" });
    expect([b.oneTimePairs.size, b.kemPairs.size]).toEqual([1, 2]);
    expect(scene.receive(b, envelope)).toMatchObject({ kind: "opened", usedPrekeys: oneTimeIds });
    expect([b.oneTimePairs.size, b.kemPairs.size]).toEqual([0, 1]);
  });

  test("a KEM prekey of last resort is never used up", () => {
    const scene = new Scene(101, 2);
    const { a, b } = scene;
    for (const text of ["first", "second", "third"]) {
      a.start(b, scene.tick());
      expect(scene.say(a, text)).toMatchObject({ kind: "opened", usedPrekeys: [] });
    }
  });

  test("a start with a KEM prekey that is gone is refused", () => {
    const scene = new Scene(102, 2);
    const envelope = scene.send(scene.a);
    scene.b.kemPairs.clear();
    expect(scene.receive(scene.b, envelope)).toMatchObject({ code: "prekey-unknown" });
  });

  test("a KEM ciphertext that is damaged, or another's, is noticed by the tag and by nothing before", () => {
    const scene = new Scene(103, 2);
    const { a, b } = scene;
    const envelope = scene.send(a);
    const initiation = decodeInitiation(envelope.initiation);
    if (initiation.suite === 1) throw new Error("this start should have been of suite 2");
    const damaged = initiation.kemCiphertext.map((byte, i) => (i === 1_087 ? byte ^ 0x80 : byte));
    for (const kemCiphertext of [damaged, new Uint8Array(1_088), new Uint8Array(1_088).fill(0xff)]) {
      const changed = { ...envelope, initiation: encodeInitiation({ ...initiation, kemCiphertext }) };
      expect(scene.receive(b, changed)).toMatchObject({ code: "auth-failed" });
    }
    expect(scene.receive(b, envelope).kind).toBe("opened");
  });

  test("a KEM ciphertext of another length is malformed", () => {
    const scene = new Scene(104, 2);
    const envelope = scene.send(scene.a);
    for (const initiation of [envelope.initiation.slice(0, -1), Uint8Array.from([...envelope.initiation, 0])]) {
      expect(scene.receive(scene.b, { ...envelope, initiation })).toMatchObject({ code: "malformed" });
    }
  });

  test("a bundle of another agent, or of oneself, begins nothing", () => {
    const scene = new Scene(14);
    const { a, b } = scene;
    const third = new Scene(15).a;
    expect(codeOf(() => a.start({ id: b.id, bundle: () => third.bundle() }, scene.now))).toBe("identity-mismatch");
    expect(codeOf(() => a.start(a, scene.now))).toBe("identity-mismatch");
  });
});

describe("the session that sends", () => {
  test("there is none before a start", () => {
    expect(sendingSession(unknownPeer(new Scene(20).b.id), START)).toBeNull();
  });

  test("ends after 1,000 messages without an answer", () => {
    const scene = new Scene(21);
    const { a, b } = scene;
    let last = scene.send(a);
    for (let sent = 1; sent < 1_000; sent++) last = scene.send(a);
    expect(last.sendCounter).toBe(1_000);
    expect(sendingSession(a.peer(b.id), scene.now)).toBeNull();
    expect(scene.receive(b, last).kind).toBe("opened");
    const next = scene.send(a);
    expect(next.sendCounter).toBe(1);
    expect(next.sessionId).not.toEqual(last.sessionId);
  });

  test("ends 30 days after a start that was never answered, however late that is noticed", () => {
    const scene = new Scene(22);
    const { a, b } = scene;
    scene.send(a);
    const startedAt = a.peer(b.id).active?.unanswered?.startedAt as number;
    expect(sendingSession(a.peer(b.id), startedAt + 30 * DAY_MS)).not.toBeNull();
    expect(sendingSession(a.peer(b.id), startedAt + 30 * DAY_MS + 1)).toBeNull();
  });

  test("lives on when it was answered", () => {
    const scene = acquainted(23);
    expect(sendingSession(scene.a.peer(scene.b.id), scene.now + 365 * DAY_MS)).not.toBeNull();
  });

  test("of five archived ones the one archived first goes when a sixth comes", () => {
    const scene = new Scene(24);
    const { a, b } = scene;
    const firsts = Array.from({ length: 7 }, () => {
      a.start(b, scene.tick());
      return scene.send(a);
    });
    const kept = a.peer(b.id);
    expect(kept.archived.map(({ id }) => id)).toEqual(firsts.slice(1, 6).map(({ sessionId }) => sessionId));
    expect(kept.active?.id).toEqual(firsts[6]?.sessionId);
  });
});

describe("a rekey", () => {
  const asks = ({ flags }: Envelope) => (flags & REKEY_REQUESTED) !== 0;

  test("is asked for from message 101 of a chain on, and from message 11 of an unanswered start", () => {
    const scene = acquainted(30);
    const answered = Array.from({ length: 102 }, () => scene.send(scene.a));
    expect(answered.filter(asks).map(({ sendCounter }) => sendCounter)).toEqual([101, 102]);
    const fresh = new Scene(31);
    const start = Array.from({ length: 12 }, () => fresh.send(fresh.a));
    expect(start.filter(asks).map(({ sendCounter }) => sendCounter)).toEqual([11, 12]);
  });

  test("is asked for an hour after the first message of the chain", () => {
    const scene = acquainted(32);
    const first = scene.send(scene.a);
    scene.tick(HOUR_MS - 2);
    expect([first, scene.send(scene.a), scene.send(scene.a)].map(asks)).toEqual([false, false, true]);
  });

  test("is answered once, by an empty message that turns both ratchets and is not answered", () => {
    const scene = new Scene(33);
    const { a, b } = scene;
    const asked = Array.from({ length: 13 }, () => scene.send(a)).slice(10);
    const receptions = asked.map((envelope) => scene.receive(b, envelope));
    expect(receptions.map((reception) => reception.kind === "opened" && reception.rekeyAnswerDue)).toEqual([
      true,
      true,
      true,
    ]);
    const sessionId = asked[0]?.sessionId as Uint8Array;
    const answer = b.answerRekey(a, sessionId, scene.tick()) as Envelope;
    expect(scene.receive(b, scene.send(a))).toMatchObject({ rekeyAnswerDue: false });
    expect(scene.receive(a, answer)).toMatchObject({
      kind: "opened",
      rekeyAnswerDue: false,
      frame: { contentType: REKEY_CONTENT_TYPE, body: new Uint8Array(0) },
    });
    const next = scene.send(a);
    expect(next).toMatchObject({ sendCounter: 1, previousCounter: 14, flags: 0, initiation: new Uint8Array(0) });
    expect(scene.receive(b, next).kind).toBe("opened");
  });

  test("is not owed to a late message of a chain that is closed", () => {
    const scene = acquainted(35);
    const { a, b } = scene;
    const asked = Array.from({ length: 101 }, () => scene.send(a));
    scene.receive(b, asked[0] as Envelope);
    scene.say(b);
    scene.say(a);
    expect(scene.receive(b, asked[100] as Envelope)).toMatchObject({ kind: "opened", rekeyAnswerDue: false });
  });

  test("answer in a session that is gone is none", () => {
    const scene = new Scene(34);
    expect(scene.b.answerRekey(scene.a, new Uint8Array(16), scene.now)).toBeNull();
  });
});

describe("repair", () => {
  function refusedRequest(scene: Scene, envelope: Envelope) {
    const reception = scene.receive(scene.b, envelope);
    if (reception.kind !== "refused") throw new Error("this message should have been refused");
    return reception.request;
  }

  test("replaces the session whose ratchet key is still the current one, once", () => {
    const scene = acquainted(40);
    const { a, b } = scene;
    b.loseSessions(a);
    const [first, second] = [scene.send(a), scene.send(a)].map((envelope) => refusedRequest(scene, envelope));
    expect(a.repair(b, first as never, scene.tick())).toBe("new-session");
    expect(a.repair(b, second as never, scene.tick(2 * HOUR_MS))).toBe("active-session");
    expect(textOf(scene.say(a, "again"))).toBe("again");
    expect(textOf(scene.say(b, "well"))).toBe("well");
    expect(scene.activeId(a)).toBe(scene.activeId(b));
  });

  test("leaves a session alone that has turned since", () => {
    const scene = acquainted(41);
    const { a, b } = scene;
    const lost = scene.send(a);
    scene.say(a);
    scene.say(b);
    const damaged = { ...lost, authTag: new Uint8Array(16) };
    expect(a.repair(b, refusedRequest(scene, damaged), scene.tick())).toBe("active-session");
  });

  test("begins at most one session in an hour", () => {
    const scene = acquainted(42);
    const { a, b } = scene;
    b.loseSessions(a);
    expect(a.repair(b, refusedRequest(scene, scene.send(a)), scene.tick())).toBe("new-session");
    scene.say(a);
    b.loseSessions(a);
    const request = refusedRequest(scene, scene.send(a));
    expect(a.repair(b, request, scene.tick())).toBe("not-yet");
    expect(a.repair(b, request, scene.tick(HOUR_MS))).toBe("new-session");
    expect(a.repair(b, request, scene.tick())).toBe("active-session");
  });

  test("a replaced session still receives, and never becomes active again", () => {
    fc.assert(
      fc.property(seed, suite, (n, of) => {
        const scene = acquainted(n, of);
        const { a, b } = scene;
        const request = refusedRequest(scene, { ...scene.send(a), authTag: new Uint8Array(16) });
        expect(a.repair(b, request, scene.tick())).toBe("new-session");
        const replacing = scene.activeId(a);
        expect(textOf(scene.say(b, "still here"))).toBe("still here");
        expect(scene.activeId(a)).toBe(replacing);
      }),
      { numRuns: 20 },
    );
  });

  test("is not asked for by anybody but the recipient", () => {
    const scene = acquainted(44);
    const { a, b } = scene;
    const request = refusedRequest(scene, { ...scene.send(a), authTag: new Uint8Array(16) });
    const forged = { ...request, signature: request.signature.slice().fill(1) };
    expect(codeOf(() => a.repair(b, forged, scene.now))).toBe("signature-invalid");
    expect(codeOf(() => a.repair(b, { ...request, senderId: b.id }, scene.now))).toBe("wrong-recipient");
    expect(codeOf(() => a.repair(b, request, scene.now - 5 * 60_000 - 1))).toBe("malformed");
    expect(codeOf(() => a.repair(b, request, scene.now + 31 * DAY_MS))).toBe("malformed");
  });
});

/** Modelled after the session tests and the session-management fuzzer that libsignal has. */
describe("both sides settle on one session", () => {
  const chaos = fc.oneof(
    { weight: 6, arbitrary: fc.record({ op: fc.constant("send" as const), by: side }) },
    { weight: 6, arbitrary: fc.record({ op: fc.constant("deliver" as const), at: fc.nat() }) },
    { weight: 2, arbitrary: fc.record({ op: fc.constant("repeat" as const), at: fc.nat() }) },
    { weight: 2, arbitrary: fc.record({ op: fc.constant("lose" as const), at: fc.nat() }) },
    { weight: 2, arbitrary: fc.record({ op: fc.constant("start" as const), by: side }) },
    { weight: 1, arbitrary: fc.record({ op: fc.constant("forget" as const), by: side }) },
  );

  /** Delivers, and repairs what fails as an agent does. */
  function deliver(scene: Scene, { to, envelope }: Flight): void {
    const reception = scene.receive(to, envelope);
    if (reception.kind !== "refused") return;
    const sender = scene.other(to);
    const plan = sender.repair(to, reception.request, scene.tick());
    if (plan === "new-session") scene.receive(to, scene.send(sender, "again"));
  }

  function quiesce(scene: Scene): void {
    for (let round = 0; round < 4; round++) {
      for (const by of [scene.a, scene.b]) {
        scene.tick(2 * HOUR_MS);
        deliver(scene, { to: scene.other(by), envelope: scene.send(by), text: "" });
      }
    }
  }

  test("whatever was lost, repeated, started or forgotten before", () => {
    fc.assert(
      fc.property(seed, suite, fc.array(chaos, { maxLength: 50 }), (n, of, steps) => {
        const scene = new Scene(n, of);
        const flight: Flight[] = [];
        for (const step of steps) {
          if (step.op === "send") {
            const sender = scene[step.by];
            flight.push({ to: scene.other(sender), envelope: scene.send(sender), text: "" });
          } else if (step.op === "start") {
            scene[step.by].start(scene.other(scene[step.by]), scene.tick());
          } else if (step.op === "forget") {
            scene[step.by].loseSessions(scene.other(scene[step.by]));
          } else if (flight.length > 0) {
            const at = step.at % flight.length;
            if (step.op !== "lose") deliver(scene, flight[at] as Flight);
            if (step.op !== "repeat") flight.splice(at, 1);
          }
        }
        for (const left of flight) deliver(scene, left);
        quiesce(scene);
        expect(scene.activeId(scene.a)).toBe(scene.activeId(scene.b));
        expect(textOf(scene.say(scene.a, "to b"))).toBe("to b");
        expect(textOf(scene.say(scene.b, "to a"))).toBe("to a");
      }),
      { numRuns: 300 },
    );
  });

  test("after simultaneous starts, without a third one", () => {
    fc.assert(
      fc.property(seed, suite, fc.boolean(), fc.boolean(), (n, of, loseA, loseB) => {
        const scene = new Scene(n, of);
        const { a, b } = scene;
        const [fromA, fromB] = [scene.send(a), scene.send(b)];
        if (!loseB) scene.receive(a, fromB);
        if (!loseA) scene.receive(b, fromA);
        scene.say(a);
        scene.say(b);
        scene.say(a);
        expect(scene.activeId(a)).toBe(scene.activeId(b));
        expect(a.peer(b.id).archived.length).toBeLessThanOrEqual(1);
      }),
    );
  });
});

test("a peer survives its bytes, and no damaged record is taken for one", () => {
  fc.assert(
    fc.property(seed, suite, fc.array(walkStep, { maxLength: 40 }), fc.nat(), (n, of, steps, cut) => {
      const scene = new Scene(n, of);
      const flight: Flight[] = [];
      for (const step of steps) {
        if (step.op === "send") {
          const sender = scene[step.by];
          flight.push({ to: scene.other(sender), envelope: scene.send(sender), text: "" });
        } else {
          const [next] = flight.splice(step.at % (flight.length || 1), 1);
          if (next !== undefined) scene.receive(next.to, next.envelope);
        }
      }
      const peer = scene.a.peer(scene.b.id);
      const record = encodePeer(peer);
      expect(decodePeer(record)).toEqual(peer);
      const damaged = expect.objectContaining({ name: "RecordUnreadable", isNewer: false });
      expect(() => decodePeer(record.subarray(0, cut % record.length))).toThrow(damaged);
      expect(() => decodePeer(Uint8Array.from([...record, 0]))).toThrow(damaged);
      expect(() => decodePeer(Uint8Array.from([0, ...record.subarray(1)]))).toThrow(damaged);
      const newer = expect.objectContaining({ name: "RecordUnreadable", isNewer: true });
      expect(() => decodePeer(Uint8Array.from([2, ...record.subarray(1)]))).toThrow(newer);
    }),
  );
});

test("the content type is any text, and one that has no encoding is refused before anything is sealed", () => {
  const scene = acquainted(50);
  const before = encodePeer(scene.a.peer(scene.b.id));
  expect(codeOf(() => scene.a.send(scene.b, bytesOf("x"), scene.now, "\ud800"))).toBe("malformed");
  expect(codeOf(() => scene.a.send(scene.b, bytesOf("x"), scene.now, "x".repeat(65_536)))).toBe("malformed");
  expect(encodePeer(scene.a.peer(scene.b.id))).toEqual(before);
  expect(scene.a.send(scene.b, bytesOf("x"), scene.now, CONTENT_TYPE).sendCounter).toBe(1);
});
