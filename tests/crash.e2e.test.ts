import { afterAll, beforeAll, expect, test } from "vitest";
import type { Agent } from "../sdk/agent.ts";
import { messageAcknowledged, messageDelivered, messageQueued, sessionInitialized } from "../streams/catalogue.ts";
import { headersAsText } from "../streams/headers.ts";
import type { Failpoint } from "../streams/runner-options.ts";
import { eventually, type House, openHouse } from "./house.ts";

const points: readonly Failpoint[] = [
  "before-commit",
  "after-commit",
  "after-publish",
  "before-offset-commit",
  "after-offset-commit",
];

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: ["routing", "receipts", "relay", "jobs"] });
});

afterAll(() => house.close());

/** Reads on until it is told to stop. */
async function readAll(agent: Agent, read: string[], signal: AbortSignal): Promise<void> {
  for await (const message of agent.inbox({ signal })) {
    read.push(message.text());
    await message.ack();
  }
}

function idOf(decoded: object): string {
  return String("messageId" in decoded ? decoded.messageId : "itemId" in decoded ? decoded.itemId : "");
}

async function initializedBy({ id }: Agent) {
  return (await house.read(sessionInitialized)).filter(({ decoded }) => decoded.initiatorId === id);
}

test.each(points)(
  "queuing, acks and sessions killed at %s and started again lose nothing and add only byte-identical repeats",
  { retry: 0 },
  async (point) => {
    const alice = await house.agent(`alice-${point}`, url);
    const bob = await house.agent(`bob-${point}`, url);
    const stop = new AbortController();
    const read: string[] = [];
    const reading = readAll(bob, read, stop.signal);
    // Acks tells Kafka where it stands before it begins.
    const acksDies = point.endsWith("-offset-commit") ? 2 : 1;
    const doomed = await Promise.all(
      // Queuing lives two steps longer: without what it stores acks would have nothing to die of.
      [`queuing:${point}:3`, `acks:${point}:${acksDies}`, `sessions:${point}:1`].map((failpoint) =>
        house.start({ roles: [failpoint.split(":")[0] ?? ""], env: { SEALPOST_FAILPOINT: failpoint } }),
      ),
    );
    const bodies: string[] = [];
    const sent: string[] = [];
    let dead = 0;
    for (const { ended } of doomed) void ended.then(() => (dead += 1));
    // Until all have died of their failpoint there is always something to do for them.
    for (let index = 1; dead < doomed.length && index <= 2_000; index += 1) {
      bodies.push(`${point} ${index}`);
      sent.push((await alice.send(bob.id, `${point} ${index}`)).messageId);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await eventually("all have died", () => dead === doomed.length);
    expect(await Promise.all(doomed.map(({ ended }) => ended))).toEqual(["SIGKILL", "SIGKILL", "SIGKILL"]);

    const heirs = await Promise.all(["queuing", "acks", "sessions"].map((role) => house.start({ roles: [role] })));
    await eventually("everything is read", () => read.length >= bodies.length, 90_000);
    await eventually("everything is acknowledged", () =>
      sent.every((id) => alice.status(id)?.state === "acknowledged"),
    );
    stop.abort();
    await reading;
    expect(read).toEqual(bodies);
    for (const topic of [messageQueued, messageDelivered, messageAcknowledged]) {
      await eventually(`everything is told in ${topic.name}`, async () => {
        const told = new Set((await house.read<object>(topic)).map(({ decoded }) => idOf(decoded)));
        return sent.every((id) => told.has(id));
      });
      const events = new Map<string, Map<string, Buffer>>();
      for (const { headers, value, decoded } of await house.read<object>(topic)) {
        const id = idOf(decoded);
        const ceId = headersAsText(headers)["ce_id"] ?? "";
        const known = events.get(id) ?? new Map<string, Buffer>();
        const bytes = known.get(ceId) ?? value ?? Buffer.alloc(0);
        expect(Buffer.compare(bytes, value ?? Buffer.alloc(0)), "a repeat has the same bytes").toBe(0);
        events.set(id, known.set(ceId, bytes));
      }
      for (const id of sent) expect(events.get(id)?.size, `${topic.name} of ${id}`).toBe(1);
    }
    await eventually("Alice's session is told", async () => (await initializedBy(alice)).length > 0);
    const told = await initializedBy(alice);
    expect(new Set(told.map(({ headers }) => headersAsText(headers)["ce_id"])).size).toBe(1);
    expect(new Set(told.map(({ value }) => value?.toString("hex"))).size).toBe(1);
    expect(told[0]?.decoded.messageId).toBe(sent[0]);
    await Promise.all(heirs.map((heir) => heir.stop()));
    await Promise.all([alice.close(), bob.close()]);
  },
);
