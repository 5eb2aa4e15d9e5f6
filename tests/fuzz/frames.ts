/**
 * Messages of the stream: right frames in odd combinations, changed bytes, random bytes, text, lengths that promise too much.
 *
 * What the decoder refuses must close the connection with 4400, and nothing else may: after the last message of a connection a SEND that must be REJECTED is
 * answered.
 */
import { once } from "node:events";
import fc from "fast-check";
import { WebSocket } from "ws";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import { encodeEnvelope } from "../../protocol/envelope.ts";
import {
  CLOSE_MALFORMED,
  type ClientFrame,
  decodeClientFrames,
  decodeServerFrames,
  encodeClientFrames,
} from "../../protocol/stream-frames.ts";
import type { Chance } from "../../sdk/chance.ts";
import type { RawSender } from "../raw-sender.ts";
import { signed } from "../signing.ts";
import { mutated } from "./mutations.ts";
import type { Stage } from "./stage.ts";
import { Tally } from "./tally.ts";

/** Of one connection: what a message leaves behind in it meets the next ones. */
const MESSAGES_MAX = 100;
const ANSWER_MS_MAX = 30_000;
/** No other SEND of a run has it. */
const MARK = 0xffff_ffff;

const kinds = ["right frames", "changed envelopes", "changed bytes", "lying lengths", "random bytes", "text"] as const;
type Kind = (typeof kinds)[number];

const MALFORMED_SHARE = 0.04;

interface Input {
  readonly kind: Kind;
  readonly data: Buffer | string;
}

const id = fc.record({
  senderId: fc.uint8Array({ minLength: 32, maxLength: 32 }).map(encodeBase64Url),
  itemId: fc.uuid(),
});
const frame: fc.Arbitrary<ClientFrame> = fc.oneof(
  fc.record({
    type: fc.constant("send" as const),
    batch: fc.integer({ min: 0, max: MARK - 1 }),
    envelopes: fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 8 }),
  }),
  fc.record({ type: fc.constant("ack" as const), items: fc.array(id, { minLength: 1, maxLength: 12 }) }),
  fc.record({ type: fc.constant("ack-up-to" as const), seq: fc.maxSafeNat() }),
  fc
    .tuple(id, fc.constantFrom("malformed" as const, "auth-failed" as const, "prekey-stale" as const))
    .map(([item, code]) => ({ type: "refuse" as const, code, ...item })),
);
const message = fc.array(frame, { minLength: 1, maxLength: 4 });

const SAMPLES = 500;

function inputsOf(caller: RawSender, recipientId: string, chance: Chance): () => Input {
  const right = fc.sample(message, { seed: chance.below(2 ** 31), numRuns: SAMPLES }).map(encodeClientFrames);
  const pick = () => chance.choose(right) ?? right[0] ?? Buffer.alloc(0);
  const sealed = Array.from({ length: 50 }, () => Buffer.from(encodeEnvelope(caller.seal(recipientId, "fuzz"))));
  // Envelopes are changed within their frame: the frame stays right, and what is behind it is met.
  const changedEnvelopes = () => {
    const envelopes = Array.from({ length: 1 + chance.below(3) }, () =>
      mutated(chance.choose(sealed) ?? Buffer.alloc(1), chance),
    );
    return Buffer.from(encodeClientFrames([{ type: "send", batch: chance.below(MARK), envelopes }]));
  };
  const lying = () => {
    const data = Buffer.from(pick());
    data.writeUInt32BE(chance.choose([0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) ?? 0, 1);
    return data;
  };
  // What closes the connection is rare: each new one costs as much as a hundred messages.
  const makers: Readonly<Record<Kind, () => Buffer | string>> = {
    "right frames": () => Buffer.from(pick()),
    "changed envelopes": changedEnvelopes,
    "changed bytes": () => mutated(pick(), chance),
    "lying lengths": lying,
    "random bytes": () => chance.bytes(chance.below(200)),
    text: () => mutated(pick(), chance).toString("latin1"),
  };
  // Each kind once, before chance has its way.
  const first = [...kinds];
  return () => {
    const kind = first.pop() ?? someKind(chance);
    return { kind, data: makers[kind]() };
  };
}

function someKind(chance: Chance): Kind {
  if (chance.happens(MALFORMED_SHARE)) return chance.choose(kinds.slice(2)) ?? "text";
  return chance.happens(0.5) ? "right frames" : "changed envelopes";
}

/** Until the time is over, and every kind had its turn. */
export async function fuzzFrames(stage: Stage, chances: readonly Chance[], untilMs: number): Promise<Tally> {
  const tally = new Tally("frames", kinds);
  await Promise.all(
    chances.map(async (chance, place) => {
      const caller = stage.callers[place];
      if (caller === undefined) throw new Error("more fuzzers than callers");
      const next = inputsOf(caller, stage.recipientId, chance);
      do await oneConnection(stage, caller, next, tally);
      while (performance.now() < untilMs || tally.isMissingSome);
    }),
  );
  return tally;
}

async function oneConnection(stage: Stage, caller: RawSender, next: () => Input, tally: Tally): Promise<void> {
  const url = `${stage.url}/messaging/stream`;
  const { headers } = await signed(caller.me, { method: "GET", url });
  const socket = new WebSocket(url, { headers });
  socket.on("error", () => undefined);
  const closed = new Promise<number>((resolve) => socket.once("close", resolve));
  const marked = new Promise<"rejected">((resolve) => {
    socket.on("message", (data: Buffer) => {
      for (const one of decodeServerFrames(data)) {
        if (one.type === "accepted") tally.answered("accepted");
        if (one.type !== "rejected") continue;
        if (one.batch === MARK) resolve("rejected");
        else tally.answered(`rejected ${one.problem["code"]}`);
        if (Number(one.problem["status"]) >= 500) tally.finding(`a SEND was answered ${JSON.stringify(one.problem)}`);
      }
    });
  });
  await Promise.race([once(socket, "open"), closed]);
  if (socket.readyState !== socket.OPEN) {
    tally.finding("a right upgrade was refused");
    return;
  }
  let last: Input | null = null;
  let isRefused = false;
  for (let count = 0; count < MESSAGES_MAX && !isRefused; count++) {
    last = next();
    isRefused = typeof last.data === "string" || !isDecoded(last.data);
    tally.put(last.kind);
    socket.send(last.data);
  }
  if (!isRefused)
    socket.send(encodeClientFrames([{ type: "send", batch: MARK, envelopes: [Buffer.from("no envelope")] }]));
  const end = await Promise.race([closed, marked, tooLate()]);
  tally.answered(`connection ${end}`);
  if (end !== (isRefused ? CLOSE_MALFORMED : "rejected")) {
    tally.finding(
      `ended with ${end} after ${last?.kind}: ${Buffer.from(last?.data ?? "")
        .toString("hex")
        .slice(0, 400)}`,
    );
  }
  socket.close();
  if (end === "silence") socket.terminate();
  await closed;
}

function isDecoded(data: Uint8Array): boolean {
  try {
    decodeClientFrames(data);
    return true;
  } catch {
    return false;
  }
}

function tooLate(): Promise<"silence"> {
  return new Promise((resolve) => setTimeout(resolve, ANSWER_MS_MAX, "silence").unref());
}
