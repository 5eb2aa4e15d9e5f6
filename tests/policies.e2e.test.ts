import { afterAll, beforeAll, expect, test } from "vitest";
import { encodeEnvelope } from "../protocol/envelope.ts";
import type { Agent } from "../sdk/agent.ts";
import { SendRejected, ServiceRefused } from "../sdk/errors.ts";
import { agentChanged, messageDiscarded } from "../streams/catalogue.ts";
import { HeldAgent } from "./held-agent.ts";
import { eventually, type House, openHouse, takeTexts } from "./house.ts";
import { RawSender } from "./raw-sender.ts";
import { openClient } from "./stream-client.ts";

/** What a permission is remembered for (api/authz/authorization.ts), and a little. */
const FRESH_MS = 5_500;

const others = ["queuing", "routing", "acks", "receipts", "sessions", "relay", "jobs"];

let house: House;
let url: string;
let alice: Agent;
let bob: Agent;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: others });
  [alice, bob] = [await house.agent("alice", url), await house.agent("bob", url)];
});

afterAll(() => house?.close());

async function rejection(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => null,
    (error: unknown) => error,
  );
}

test("an agent that takes messages from contacts only is asked first; until then every door names the rule", async () => {
  const raw = new RawSender(url);
  await raw.register();
  // Met before the policy: only the send itself stands between the two.
  await raw.meet(bob.id);
  expect((await raw.post([raw.seal(bob.id, "everybody may")])).status).toBe(202);
  expect(await takeTexts(bob, 1)).toEqual(["everybody may"]);
  expect(await bob.policies.set("contacts")).toEqual({ policy: "contacts", allowed: 0, blocked: 0 });
  await new Promise((resolve) => setTimeout(resolve, FRESH_MS));

  const envelope = raw.seal(bob.id, "a stranger");
  const refused = await raw.post([envelope]);
  expect([refused.status, await refused.json()]).toMatchObject([
    403,
    { code: "not-allowed", rule: "contacts-only", errors: [{ message_id: envelope.messageId, rule: "contacts-only" }] },
  ]);
  expect(await rejection(raw.meet(bob.id))).toMatchObject({ code: "not-allowed", rule: "contacts-only", status: 403 });
  const stream = await openClient(`${url}/messaging/stream`, raw.me);
  await stream.has("queue-empty");
  stream.send({ type: "send", batch: 1, envelopes: [encodeEnvelope(raw.seal(bob.id, "a stranger on a stream"))] });
  await stream.has("rejected");
  expect(stream.frames).toContainEqual(
    expect.objectContaining({ type: "rejected", problem: expect.objectContaining({ rule: "contacts-only" }) }),
  );
  const rejected = await rejection(alice.send(bob.id, "hello"));
  expect(rejected).toBeInstanceOf(SendRejected);
  expect(rejected).toMatchObject({ code: "not-allowed", rule: "contacts-only", recipientId: bob.id });

  expect(await alice.policies.request(bob.id)).toMatchObject({ agentId: bob.id, state: "requested" });
  expect(await bob.policies.contacts("pending")).toMatchObject([{ agentId: alice.id, state: "pending" }]);
  await bob.policies.accept(alice.id);
  await alice.send(bob.id, "as a contact");
  expect(await takeTexts(bob, 1)).toEqual(["as a contact"]);
  await bob.send(alice.id, "mutual");
  expect(await takeTexts(alice, 1)).toEqual(["mutual"]);

  // Who is connected hears of a request at once.
  await alice.policies.request(raw.me.agentId);
  await stream.has("notice");
  expect(stream.frames).toContainEqual({ type: "notice", kind: "contact-requested" });
});

test("who is blocked is refused over the stream within seconds, and is told so when it asks", async () => {
  expect(await bob.policies.block(alice.id)).toBe(true);
  await new Promise((resolve) => setTimeout(resolve, FRESH_MS));
  const rejected = await rejection(alice.send(bob.id, "not any more"));
  expect(rejected).toBeInstanceOf(SendRejected);
  expect(rejected).toMatchObject({ code: "not-allowed", rule: "blocked" });
  await bob.policies.remove(alice.id);
  const asked = await rejection(alice.policies.request(bob.id));
  expect(asked).toBeInstanceOf(ServiceRefused);
  expect(asked).toMatchObject({ code: "not-allowed", rule: "blocked" });
  expect(await bob.policies.listed("block")).toEqual([alice.id]);
  await eventually("the world is told", async () => {
    const changes = (await house.read(agentChanged))
      .filter(({ decoded }) => decoded.agentId === bob.id && decoded.change !== "registered")
      .map(({ decoded }) => `${decoded.change} ${decoded.peerId ?? decoded.reason}`);
    return (
      changes.join() ===
      [
        "policy-changed contacts",
        ...["contact-accepted", "blocked", "contact-removed"].map((c) => `${c} ${alice.id}`),
      ].join()
    );
  });
});

test("what the service has yet to encrypt when its sender is blocked is discarded under the rule, and nothing else is", async () => {
  const [held, friend] = [new HeldAgent(url), new HeldAgent(url)];
  for (const agent of [held, friend]) expect((await agent.register()).status).toBe(201);
  const carol = await house.agent("carol", url);
  const [unwanted] = await held.send(carol.id, ["taken, and then blocked"]);
  const [wanted] = await friend.send(carol.id, ["taken"]);
  await carol.policies.block(held.id);
  const service = await house.start({ roles: ["encryption"] });
  expect(await takeTexts(carol, 1)).toEqual(["taken"]);
  await eventually("its sender is told", async () => (await house.read(messageDiscarded)).length > 0);
  const told = (await house.read(messageDiscarded)).map(({ decoded }) => decoded);
  expect(told).toMatchObject([{ messageId: unwanted, senderId: held.id, code: "not-allowed", detail: "blocked" }]);
  expect(told.map(({ messageId }) => messageId)).not.toContain(wanted);
  // The API may have remembered, from the first send, that it was allowed.
  await new Promise((resolve) => setTimeout(resolve, FRESH_MS));
  const again = await held.post("/messaging/sessions", { peer_id: carol.id });
  expect(again.problem).toMatchObject({ status: 403, code: "not-allowed", rule: "blocked" });
  await service.stop();
});
