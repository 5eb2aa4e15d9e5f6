import { beforeEach, describe, expect, test } from "vitest";
import { decodeEnvelope } from "../protocol/envelope.ts";
import { type FakeService, problem } from "./fake-service.ts";
import { firstProblem, take, texts, until, useStage } from "./stage-for-tests.ts";

const stage = useStage();
let service: FakeService;

beforeEach(() => {
  ({ service } = stage);
});

function recipientOf(id: string): string {
  const sent = service.sent.find(({ messageId }) => messageId === id);
  if (sent === undefined) throw new Error("it was not sent");
  return decodeEnvelope(sent.bytes).recipientId;
}

/** A mailbox's room for messages, and how often there was none. */
interface Room {
  left: number;
  refusals: number;
  /** Seconds. */
  retryAfter: number;
}

/** The problem with a call that brings messages for these recipients, as the service names them; null when there is room for all. */
function lackOf(room: Room, recipientId: string, member: string, recipients: readonly string[]) {
  const own = recipients.flatMap((id, index) => (id === recipientId ? [index] : []));
  const without = own.slice(room.left);
  if (without.length === 0) {
    room.left -= own.length;
    return null;
  }
  room.refusals += 1;
  const errors = without.map((index) => ({
    ...{ pointer: `/${member}/${index}/recipient_id`, code: "pair-full", detail: "full", recipient_id: recipientId },
  }));
  return problem(429, "pair-full", { retryable: true, retry_after: room.retryAfter, errors });
}

/** From now on the service has so much room for messages to this recipient. */
function limit(recipientId: string, left: number, retryAfter = 0): Room {
  const room = { left, refusals: 0, retryAfter };
  service.onSend = (ids) => lackOf(room, recipientId, "envelopes", ids.map(recipientOf))?.[1] ?? "accept";
  service.custody.onSend = (messages) => {
    const recipients = messages.map((message) => message.recipientId);
    return lackOf(room, recipientId, "messages", recipients);
  };
  return room;
}

describe.each(["agent", "server"] as const)("with keys at the %s", (custody) => {
  const open = (name: string) => stage.open(name, { custody });

  test("messages for which a mailbox has no room are kept, hold up nobody else's, and leave in order when there is room", async () => {
    const [alice, bob, carol] = [await open("alice"), await open("bob"), await open("carol")];
    for (const { id } of [bob, carol]) await alice.send(id, "first contact");
    const room = limit(bob.id, 2);
    const bodies = ["a", "b", "c", "d"];
    const waiting = alice.sendMany([
      ...bodies.map((body) => ({ to: bob.id, body })),
      ...bodies.map((body) => ({ to: carol.id, body })),
    ]);
    expect(texts(await take(carol, 5))).toEqual(["first contact", ...bodies]);
    expect(texts(await take(bob, 3))).toEqual(["first contact", "a", "b"]);
    expect(await firstProblem(alice, "trouble")).toMatchObject({ error: { code: "pair-full", retryable: true } });
    await alice.send(carol.id, "meanwhile");
    const later = alice.send(bob.id, "e");
    room.left = 1;
    expect(texts(await take(bob, 1))).toEqual(["c"]);
    room.left = 9;
    expect(texts(await take(bob, 2))).toEqual(["d", "e"]);
    await later;
    expect((await waiting).map(({ status }) => status)).toEqual(Array(8).fill("fulfilled"));
    expect(room.refusals).toBeGreaterThan(1);
  });

  test("what waits for room waits as long as the service asks, and after the agent was opened anew it leaves", async () => {
    const [alice, bob] = [await open("alice"), await open("bob")];
    await alice.send(bob.id, "first contact");
    const room = limit(bob.id, 0, 3_600);
    const sending = alice.send(bob.id, "patience");
    const refused = expect(sending).rejects.toMatchObject({ code: "closed" });
    await firstProblem(alice, "trouble");
    // Longer than the first pause without a word on it.
    await new Promise((resolve) => setTimeout(resolve, 700));
    expect(room.refusals).toBe(1);
    await alice.close({ drainMsMax: 0 });
    await refused;
    room.left = 9;
    await open("alice");
    expect(texts(await take(bob, 2))).toEqual(["first contact", "patience"]);
  });
});

test("what waits for room is not forgotten when its time comes while another batch has no answer yet", async () => {
  const { open } = stage;
  const [alice, bob, carol] = [await open("alice"), await open("bob"), await open("carol")];
  for (const { id } of [bob, carol]) await alice.send(id, "first contact");
  const room = limit(bob.id, 0);
  const { onSend } = service;
  let unanswered = 0;
  service.onSend = (messageIds, batch) => {
    const answer = onSend(messageIds, batch);
    if (answer !== "accept" || unanswered > 0) return answer;
    unanswered = batch;
    return "accept-silently";
  };
  const waiting = alice.sendMany([
    ...["a", "b", "c"].map((body) => ({ to: bob.id, body })),
    { to: carol.id, body: "d" },
  ]);
  await until(() => unanswered > 0);
  // The first pause is half a second at most.
  await new Promise((resolve) => setTimeout(resolve, 700));
  room.left = 9;
  service.send(alice.id, [{ type: "accepted", batch: unanswered }]);
  const later = alice.send(bob.id, "e");
  expect(texts(await take(bob, 5))).toEqual(["first contact", "a", "b", "c", "e"]);
  await later;
  expect((await waiting).map(({ status }) => status)).toEqual(Array(4).fill("fulfilled"));
});
