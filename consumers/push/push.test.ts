import { expect, test } from "vitest";
import type { MessageReceipt, PushRequested, PushRetry } from "../../schemas/values.ts";
import type { Device, DeviceKind } from "../../store/devices.ts";
import type { Claim, Wake } from "../../store/wakes.ts";
import { messageReceipt, pushRequested, pushRetry10s, pushRetry30s, pushRetry90s } from "../../streams/catalogue.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import { dueWaitMsMax } from "../../streams/due.ts";
import type { Topic } from "../../streams/topic.ts";
import { again, type Outcome, woken } from "./outcomes.ts";
import { push } from "./push.ts";

const hourMs = 60 * 60 * 1000;
const bug: Outcome = { kind: "bug", code: "x" };
const fault: Outcome = { kind: "fault", code: "x" };
const foreign: Outcome = { kind: "foreign", code: "x" };
const gone = (registeredBefore: number | null = null): Outcome => ({ kind: "gone", registeredBefore, code: "x" });

function device(agentId: string, deviceId: string, kind: DeviceKind = "fcm"): Device {
  const base = { agentId, deviceId, kind, address: deviceId, environment: null, urgency: "background" } as const;
  return { ...base, secret: null, createdAt: 1, refreshedAt: 1_000 };
}

/** Everything around the consumer, in memory. */
class World {
  devices: Device[] = [];
  /** By device; the last one stays. Left out: woken. */
  answers = new Map<string, (Outcome | "killed")[]>();
  present = new Set<string>();
  /** Who comes while the wake is claimed. */
  comesMeanwhile = new Set<string>();
  readAgents = new Set<string>();
  /** The newest that is stored for each agent. */
  stored = new Map<string, number>();
  claims = new Map<string, { wakeId: string; state: "claimed" | "resting" | "sent" }>();
  spent = new Set<string>();
  /** By device: until when its provider wants it left alone. */
  rests = new Map<string, number>();
  forgotten: [deviceId: string, registeredBefore: number | null][] = [];
  moved: string[] = [];
  called: [deviceId: string, wakeId: string][] = [];
  alerts: string[] = [];
  now = 100_000;
  jitter = 0;
  offset = 0;

  readonly #door = {
    wake: async ({ deviceId }: Device, wakeId: string) => {
      this.called.push([deviceId, wakeId]);
      const script = this.answers.get(deviceId) ?? [woken];
      const answer = (script.length > 1 ? script.shift() : script[0]) as Outcome | "killed";
      if (answer === "killed") throw new Error("killed");
      return answer;
    },
    close: async () => undefined,
  };

  readonly consumer = push({
    presence: {
      lookup: async (ids) => {
        const found = new Map(
          ids.flatMap((id) => (this.present.has(id) ? [[id, { gatewayId: "g", connectionId: "c" }]] : [])),
        );
        for (const id of this.comesMeanwhile) this.present.add(id);
        return found;
      },
    },
    wakes: {
      claim: async (wakes) => wakes.map((wake) => this.#claim(wake)),
      sent: async (wakes) => {
        for (const { device: one, wakeId } of wakes) this.claims.set(one.deviceId, { wakeId, state: "sent" });
      },
      release: async (wakes) => {
        for (const { device: one } of wakes) this.claims.delete(one.deviceId);
      },
      rest: async (rests) => {
        for (const { device: one, ms } of rests) this.rests.set(one.deviceId, this.now + ms);
      },
    },
    waits: async (upTo) => upTo.map(({ recipientId }) => !this.readAgents.has(recipientId)),
    lastSeqs: async (ids) => new Map([...this.stored].filter(([id]) => ids.includes(id))),
    findDevices: async (ids) => this.devices.filter(({ agentId }) => ids.includes(agentId)),
    forgetDevice: async ({ deviceId, refreshedAt }, registeredBefore) => {
      this.forgotten.push([deviceId, registeredBefore]);
      if (registeredBefore !== null && refreshedAt >= registeredBefore) return false;
      this.devices = this.devices.filter((one) => one.deviceId !== deviceId);
      return true;
    },
    moveDevice: async ({ deviceId }, environment) => void this.moved.push(`${deviceId} ${environment}`),
    doors: new Map([
      ["fcm", this.#door],
      ["apns", this.#door],
    ]),
    count: () => undefined,
    alert: (kind, outcome, code) => void this.alerts.push(`${kind} ${outcome} ${code}`),
    now: () => this.now,
    random: () => this.jitter,
  });

  #claim({ wakeId, device: { deviceId } }: Wake): Claim {
    const held = this.claims.get(deviceId);
    if (held?.wakeId === wakeId && held.state === "sent") return "done";
    if (held !== undefined && held.wakeId !== wakeId) return "outstanding";
    const restsMs = (this.rests.get(deviceId) ?? 0) - this.now;
    const isPaid = held?.state === "claimed";
    if (restsMs > 0) {
      this.claims.set(deviceId, { wakeId, state: isPaid ? "claimed" : "resting" });
      return { restsMs };
    }
    if (isPaid) return "again";
    if (this.spent.has(deviceId)) return "spent";
    this.claims.set(deviceId, { wakeId, state: "claimed" });
    return "begun";
  }

  record<Value extends PushRequested>(topic: Topic<Value>, value: Value): Inbound<Value> {
    const place = { partition: 0, offset: this.offset++, headers: {}, timestamp: this.now };
    return { topic, key: value.recipientId, value, ...place };
  }

  request(recipientId: string, seq = 1): Inbound<PushRequested> {
    return this.record(pushRequested, { recipientId, seq, requestedAt: 5 });
  }

  async react(...batch: readonly Inbound<PushRequested | PushRetry>[]): Promise<readonly Emit[]> {
    for (const record of batch) this.consumer.check?.(record);
    return this.consumer.react(batch);
  }

  /** What was emitted, come back from the log. */
  returned(emits: readonly Emit[]): readonly Inbound<PushRetry>[] {
    return emits
      .filter(({ topic }) => topic.name.startsWith("push.retry"))
      .map((emit) => this.record(emit.topic as Topic<PushRetry>, emit.value("") as PushRetry));
  }

  calledDevices(): string[] {
    return this.called.map(([deviceId]) => deviceId);
  }
}

function worldOf(...devices: readonly Device[]): World {
  const world = new World();
  world.devices = [...devices];
  return world;
}

const anna = "anna";

test("every device of an agent is woken once, for all of its requests; nothing is emitted", async () => {
  const world = worldOf(device(anna, "a1"), device(anna, "a2", "apns"), device("ben", "b1"));
  expect(await world.react(world.request(anna, 1), world.request("ben", 7), world.request(anna, 3))).toEqual([]);
  expect(world.calledDevices().toSorted()).toEqual(["a1", "a2", "b1"]);
  const ids = world.called.filter(([id]) => id.startsWith("a")).map(([, wakeId]) => wakeId);
  expect(new Set(ids).size).toBe(1);
});

test("a wake whose process ended in the call is made when its request comes again, with newer ones too, and then speaks for all of them", async () => {
  const world = worldOf(device(anna, "a1"));
  const [first, second] = [world.request(anna, 1), world.request(anna, 2)];
  world.answers.set("a1", ["killed", again(), woken]);
  await expect(world.react(first)).rejects.toThrow("killed");
  const [retry] = world.returned(await world.react(first, second));
  expect(world.called).toHaveLength(2);
  expect(retry?.value.seq).toBe(2);
  expect(await world.react(...(retry === undefined ? [] : [retry]))).toEqual([]);
  expect(new Set(world.called.map(([, wakeId]) => wakeId)).size).toBe(1);
  expect(world.claims.get("a1")?.state).toBe("sent");
});

test("who is connected, has read everything, or has no device this service can wake is not woken", async () => {
  const world = worldOf(device("here", "h1"), device("read", "r1"), device("web", "w1", "webhook"));
  world.present.add("here");
  world.readAgents.add("read");
  const requests = ["here", "read", "web", "nobody"].map((id) => world.request(id));
  expect(await world.react(...requests)).toEqual([]);
  expect(world.called).toEqual([]);
});

test("one wake is outstanding; who comes while it is claimed is not woken and nothing is left outstanding", async () => {
  const world = worldOf(device(anna, "a1"));
  await world.react(world.request(anna, 1));
  await world.react(world.request(anna, 2));
  expect(world.calledDevices()).toEqual(["a1"]);
  const late = worldOf(device(anna, "a1"));
  late.comesMeanwhile.add(anna);
  await late.react(late.request(anna, 1));
  expect([late.called, late.claims.size]).toEqual([[], 0]);
  const resting = worldOf(device(anna, "a1"));
  resting.rests.set("a1", resting.now + 60_000);
  resting.comesMeanwhile.add(anna);
  expect(await resting.react(resting.request(anna, 1))).toEqual([]);
  expect([resting.called, resting.claims.size]).toEqual([[], 0]);
});

test("a spent budget leaves a message queued: no retry, and never undeliverable", async () => {
  const world = worldOf(device(anna, "a1"));
  world.spent.add("a1");
  expect(await world.react(world.request(anna))).toEqual([]);
  expect(world.called).toEqual([]);
});

test("a record that is applied again wakes nobody twice, and tries again what had failed", async () => {
  const world = worldOf(device(anna, "a1"), device(anna, "a2"));
  world.answers.set("a2", [again()]);
  const request = world.request(anna);
  const first = await world.react(request);
  const second = await world.react(request);
  expect(world.calledDevices()).toEqual(["a1", "a2", "a2"]);
  const values = [first, second].map((emits) => emits.map((emit) => emit.value("")));
  expect(values[0]).toEqual(values[1]);
});

test("three retries after 10, 30 and 90 s, each due then; after the third what waited is undeliverable, and the next message tries anew", async () => {
  const world = worldOf(device(anna, "a1"));
  world.answers.set("a1", [again()]);
  let batch: readonly Inbound<PushRequested | PushRetry>[] = [world.request(anna, 9)];
  const seen: unknown[] = [];
  let emits: readonly Emit[] = [];
  for (let n = 0; n < 4; n++) {
    emits = await world.react(...batch);
    const returned = world.returned(emits);
    for (const record of returned) {
      seen.push([record.topic.name, (world.consumer.dueAt?.(record) ?? 0) - record.timestamp, record.value.attempt]);
      expect(record.value).toMatchObject({ seq: 9, deviceIds: ["a1"], woken: false, restMs: 0 });
    }
    batch = returned;
  }
  expect(seen).toEqual([
    [pushRetry10s.name, 10_000, 2],
    [pushRetry30s.name, 30_000, 3],
    [pushRetry90s.name, 90_000, 4],
  ]);
  expect(new Set(world.called.map(([, wakeId]) => wakeId)).size).toBe(1);
  const [failure, ...more] = emits;
  expect(more).toEqual([]);
  expect(failure).toMatchObject({ topic: messageReceipt, key: anna });
  const said: Partial<MessageReceipt> = {
    recipientId: anna,
    items: [],
    undeliverable: { afterSeq: 0, untilSeq: 9, at: world.now },
  };
  expect(failure?.value("")).toEqual(said);
  expect(world.claims.size).toBe(0);
  await world.react(world.request(anna, 10));
  expect(world.called).toHaveLength(5);
});

test("a device that is woken by a retry ends it", async () => {
  const world = worldOf(device(anna, "a1"));
  world.answers.set("a1", [again(), woken]);
  const [retry] = world.returned(await world.react(world.request(anna)));
  if (retry === undefined) throw new Error("there is no retry");
  expect(await world.react(retry)).toEqual([]);
  expect(world.calledDevices()).toEqual(["a1", "a1"]);
});

test("an agent of whom another device was woken is not undeliverable", async () => {
  const world = worldOf(device(anna, "good"), device(anna, "bad"));
  world.answers.set("bad", [again()]);
  let emits = await world.react(world.request(anna));
  for (let n = 0; n < 3; n++) emits = await world.react(...world.returned(emits));
  expect(world.calledDevices()).toEqual(["good", "bad", "bad", "bad", "bad"]);
  expect(emits).toEqual([]);
});

test("a retry for who has come and read, or is here, is dropped", async () => {
  for (const reason of ["readAgents", "present"] as const) {
    const world = worldOf(device(anna, "a1"));
    world.answers.set("a1", [again()]);
    const retries = world.returned(await world.react(world.request(anna)));
    world[reason].add(anna);
    expect(await world.react(...retries)).toEqual([]);
    expect(world.called).toHaveLength(1);
  }
});

test("Retry-After is respected to the millisecond, in further rounds where a topic does not wait that long, and costs no attempt", async () => {
  for (const [afterMs, jitter] of [
    [5_000, 0],
    [12_000, 0.9],
    [60_000, 0],
    [90_001, 0],
    [250_000, 0.5],
    [hourMs, 1],
  ] as const) {
    const world = worldOf(device(anna, "a1"));
    world.jitter = jitter;
    world.answers.set("a1", [again(afterMs), woken]);
    const startedAt = world.now;
    let [next] = world.returned(await world.react(world.request(anna)));
    for (let rounds = 0; next !== undefined && rounds < 100; rounds++) {
      const dueAt = world.consumer.dueAt?.(next) ?? 0;
      expect(dueAt - next.timestamp).toBeLessThan(dueWaitMsMax);
      world.now = dueAt;
      expect(next.value.attempt).toBe(2);
      [next] = world.returned(await world.react(next));
    }
    expect(world.called).toHaveLength(2);
    expect(world.now - startedAt).toBeGreaterThanOrEqual(Math.max(10_000, afterMs));
    expect(world.now - startedAt).toBeLessThanOrEqual(Math.max(10_000, afterMs) * 1.25 + 1);
  }
});

test("a provider that wants to be left alone for longer than a wake lives is not asked again by it, nor by the next ones before the time", async () => {
  const world = worldOf(device(anna, "a1"));
  world.answers.set("a1", [again(hourMs + 1_000), woken]);
  for (const seq of [1, 2]) {
    const [failure, ...more] = await world.react(world.request(anna, seq));
    expect([failure?.topic.name, more]).toEqual([messageReceipt.name, []]);
    expect(failure?.value("")).toMatchObject({ undeliverable: { afterSeq: 0, untilSeq: seq } });
  }
  world.now += 2_000;
  const [retry] = world.returned(await world.react(world.request(anna, 3)));
  expect((retry?.value.delayMs ?? 0) + (retry?.value.restMs ?? 0)).toBe(hourMs - 1_000);
  expect(world.called).toHaveLength(1);
  // One retry speaks for all that comes while the device rests.
  expect(await world.react(world.request(anna, 4))).toEqual([]);
  world.now += hourMs;
  const due = world.record(pushRetry10s, { ...(retry as Inbound<PushRetry>).value, restMs: 0 });
  expect(await world.react(due)).toEqual([]);
  expect(world.called).toHaveLength(2);
});

test("an agent of whose devices one rests for too long and another is tried again is not given up yet", async () => {
  const world = worldOf(device(anna, "a1"), device(anna, "a2"));
  world.answers.set("a1", [again(2 * hourMs)]);
  world.answers.set("a2", [again()]);
  let batch: readonly Inbound<PushRequested | PushRetry>[] = [world.request(anna, 1)];
  const topics: string[][] = [];
  for (let n = 0; n < 4; n++) {
    const emits = await world.react(...batch);
    topics.push(emits.map(({ topic }) => topic.name));
    batch = world.returned(emits);
  }
  expect(topics).toEqual([[pushRetry10s.name], [pushRetry30s.name], [pushRetry90s.name], [messageReceipt.name]]);
  expect(world.calledDevices()).toEqual(["a1", "a2", "a2", "a2", "a2"]);
});

test("what was stored while a wake was tried again is undeliverable with it, and not forgotten", async () => {
  const world = worldOf(device(anna, "a1"));
  world.answers.set("a1", [again()]);
  let emits = await world.react(world.request(anna, 1));
  expect(await world.react(world.request(anna, 2))).toEqual([]);
  world.stored.set(anna, 3).set("ben", 9);
  for (let n = 0; n < 3; n++) emits = await world.react(...world.returned(emits));
  expect(emits.map((emit) => emit.value(""))).toMatchObject([{ undeliverable: { afterSeq: 0, untilSeq: 3 } }]);
});

test("no provider is left alone for longer than a day", async () => {
  const world = worldOf(device(anna, "a1"));
  world.answers.set("a1", [again(Number.MAX_SAFE_INTEGER)]);
  await world.react(world.request(anna));
  expect((world.rests.get("a1") ?? 0) - world.now).toBe(24 * hourMs);
});

test("Retry-After is respected when the agent has come and gone in between", async () => {
  const world = worldOf(device(anna, "a1"));
  world.answers.set("a1", [again(30_000), woken]);
  await world.react(world.request(anna, 1));
  world.claims.clear();
  world.now += 10_000;
  const [retry] = world.returned(await world.react(world.request(anna, 2)));
  expect([world.called.length, retry?.value.attempt, retry?.value.delayMs]).toEqual([1, 2, 20_000]);
  if (retry === undefined) throw new Error("there is no retry");
  world.now = world.consumer.dueAt?.(retry) ?? 0;
  expect(await world.react(retry)).toEqual([]);
  expect(world.called).toHaveLength(2);
});

test("a device that is gone is taken away and somebody is told; nothing is undeliverable for want of devices", async () => {
  const world = worldOf(device(anna, "a1"));
  world.answers.set("a1", [gone()]);
  expect(await world.react(world.request(anna))).toEqual([]);
  expect([world.forgotten, world.devices, world.alerts]).toEqual([[["a1", null]], [], ["fcm gone x"]]);
});

test("a device that was registered again since its provider knew that it was gone stays, and is tried again", async () => {
  const world = worldOf(device(anna, "a1", "apns"));
  world.answers.set("a1", [gone(1_000)]);
  const [retry] = world.returned(await world.react(world.request(anna)));
  expect(retry?.value.deviceIds).toEqual(["a1"]);
  expect([world.devices.length, world.alerts]).toEqual([1, []]);
  const older = worldOf(device(anna, "a1", "apns"));
  older.answers.set("a1", [gone(1_001)]);
  expect(await older.react(older.request(anna))).toEqual([]);
  expect(older.devices).toEqual([]);
});

test("a token of another app is taken away only where its provider has taken a wake since the start: a wrong topic takes no device away", async () => {
  const world = worldOf(device(anna, "a1"), device("ben", "b1"), device("carl", "c1", "apns"));
  world.answers.set("a1", [foreign]);
  world.answers.set("b1", [foreign]);
  let emits = await world.react(world.request(anna), world.request("ben"), world.request("carl"));
  expect(world.alerts).toEqual(["fcm foreign x", "fcm foreign x"]);
  for (let n = 0; n < 3; n++) emits = await world.react(...world.returned(emits));
  expect(emits.map(({ topic, key }) => [topic.name, key])).toEqual([
    [messageReceipt.name, anna],
    [messageReceipt.name, "ben"],
  ]);
  expect([world.devices.length, world.forgotten]).toEqual([3, []]);
  world.devices.push(device("dora", "d1"));
  expect(await world.react(world.request(anna), world.request("dora"))).toEqual([]);
  expect(await world.react(world.request("ben"))).toEqual([]);
  expect(world.devices.map(({ deviceId }) => deviceId)).toEqual(["c1", "d1"]);
});

test("no other answer takes a device away", async () => {
  for (const answer of [again(), again(5), fault, woken]) {
    const world = worldOf(device(anna, "a1"));
    world.answers.set("a1", [answer]);
    await world.react(world.request(anna));
    expect([world.devices.length, world.forgotten]).toEqual([1, []]);
  }
});

test("a token of the other environment is kept there", async () => {
  const world = worldOf(device(anna, "a1", "apns"));
  world.answers.set("a1", [{ kind: "woken", environment: "sandbox" }]);
  expect(await world.react(world.request(anna))).toEqual([]);
  expect(world.moved).toEqual(["a1 sandbox"]);
});

test("a provider that does not take our word is left alone for a minute, the others are not; its devices are tried again", async () => {
  const world = worldOf(device(anna, "a1"), device("ben", "b1"), device("carl", "c1", "apns"));
  world.answers.set("a1", [fault, woken]);
  const emits = await world.react(world.request(anna));
  expect([world.alerts, world.returned(emits).length]).toEqual([["fcm fault x"], 1]);
  const paused = world.returned(await world.react(world.request("ben"), world.request("carl")));
  expect(world.calledDevices()).toEqual(["a1", "c1"]);
  expect(paused.map(({ value }) => value.deviceIds)).toEqual([["b1"]]);
  world.now += 60_000;
  await world.react(...paused);
  expect(world.calledDevices()).toEqual(["a1", "c1", "b1"]);
});

test("a call that is wrong in itself is refused, for its record to become a dead letter; the others of its step are not woken twice", async () => {
  const world = worldOf(device(anna, "a1"), device("ben", "b1"));
  world.answers.set("b1", [bug]);
  const batch = [world.request(anna), world.request("ben")] as const;
  await expect(world.react(...batch)).rejects.toMatchObject({ code: "push-refused" });
  expect(world.alerts).toEqual(["fcm bug x"]);
  expect(await world.react(batch[0])).toEqual([]);
  await expect(world.react(batch[1])).rejects.toMatchObject({ code: "push-refused" });
  expect(world.calledDevices()).toEqual(["a1", "b1", "b1"]);
});

test.each([
  ["under another key", { key: "ben" }, {}],
  ["of an attempt that is none", {}, { attempt: 5 }],
  ["of a first attempt", {}, { attempt: 1 }],
  ["for more devices than an agent has", {}, { deviceIds: Array.from({ length: 11 }, String) }],
  ["that waits longer than its topic", {}, { delayMs: 112_501 }],
  ["that was due before it was asked for", {}, { delayMs: -1 }],
  ["that would go round for longer than a provider may ask", {}, { restMs: 75 * 60_000 + 1 }],
  ["that would go round for ever", {}, { restMs: Number.MAX_SAFE_INTEGER }],
  ["with a rest that is none", {}, { restMs: -1 }],
])("a retry %s is refused", (_, record, value) => {
  const world = worldOf();
  const retry: PushRetry = {
    ...{ recipientId: anna, seq: 1, requestedAt: 1, wakeId: "w", attempt: 2, deviceIds: ["a1"], woken: false },
    ...{ delayMs: 1, restMs: 0, ...value },
  };
  expect(() => world.consumer.check?.({ ...world.record(pushRetry10s, retry), ...record })).toThrow(
    /^malformed|item-mismatch$/,
  );
  const longest = { ...retry, attempt: 2, deviceIds: ["a1"], delayMs: 112_500, restMs: 75 * 60_000 };
  expect(() => world.consumer.check?.(world.record(pushRetry10s, longest))).not.toThrow();
});
