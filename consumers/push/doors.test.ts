import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Webhook } from "standardwebhooks";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../store/devices.ts";
import {
  providersCa as ca,
  type FakeAnswer,
  type FakeProvider,
  fakeApnsKey,
  fakeServiceAccountFile,
  openFakeApns,
  openFakeFcm,
  openFakeWebhook,
} from "../../tests/fake-providers.ts";
import { openApns } from "./apns-door.ts";
import { openFcm } from "./fcm-door.ts";
import type { PushDoor } from "./outcomes.ts";
import { openWebhooks } from "./webhook-door.ts";

const token = "ab".repeat(32);
const secret = `whsec_${Buffer.alloc(32, 7).toString("base64")}`;

function device(kind: Device["kind"], changes: Partial<Device> = {}): Device {
  const base = { agentId: "a".repeat(43), deviceId: "0198c0de-7a11-7b2c-9d3e-4f5061728394", kind, address: token };
  return { ...base, environment: null, urgency: "background", secret: null, createdAt: 1, refreshedAt: 1, ...changes };
}

const again = { kind: "again", afterMs: null };
let fake: FakeProvider;
let door: PushDoor;
afterEach(async () => {
  await door.close();
  await fake.close();
});

describe("FCM, by its SDK", () => {
  let account: Awaited<ReturnType<typeof fakeServiceAccountFile>>;
  beforeAll(async () => {
    account = await fakeServiceAccountFile();
  });
  afterAll(() => account.remove());
  beforeEach(async () => {
    fake = await openFakeFcm();
    door = openFcm({ serviceAccountFile: account.file, address: fake.address, ca });
  });

  const wake = (changes: Partial<Device> = {}) => door.wake(device("fcm", changes), "wake");
  const fcmError = (errorCode: string) => ({
    error: {
      status: "X",
      details: [{ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", errorCode }],
    },
  });

  test("a wake is data only, collapses, and says nothing about any message", async () => {
    expect(await wake()).toEqual({ kind: "woken" });
    const [asked, ...more] = fake.asked;
    expect(more).toEqual([]);
    expect(asked?.path).toBe("/v1/projects/sealpost-test/messages:send");
    expect(asked?.headers.authorization).toBe("Bearer fake");
    expect(JSON.parse(asked?.body ?? "")).toEqual({
      message: {
        token,
        data: { v: "1", wake: "inbox" },
        android: { priority: "normal", collapse_key: "inbox", ttl: "3600s" },
        apns: {
          headers: { "apns-priority": "5", "apns-push-type": "background", "apns-collapse-id": "inbox" },
          payload: { aps: { "content-available": 1 } },
        },
      },
    });
  });

  test("an urgent device is woken with high priority on Android, and on Apple's with 5", async () => {
    await wake({ urgency: "urgent" });
    const { message } = JSON.parse(fake.asked[0]?.body ?? "");
    expect([message.android.priority, message.apns.headers["apns-priority"]]).toEqual(["high", "5"]);
  });

  const answers: [string, FakeAnswer, object][] = [
    ["UNREGISTERED", { status: 404, body: fcmError("UNREGISTERED") }, { kind: "gone", registeredBefore: null }],
    ["INVALID_ARGUMENT", { status: 400, body: fcmError("INVALID_ARGUMENT") }, { kind: "gone" }],
    ["SENDER_ID_MISMATCH", { status: 403, body: fcmError("SENDER_ID_MISMATCH") }, { kind: "foreign" }],
    ["THIRD_PARTY_AUTH_ERROR", { status: 401, body: fcmError("THIRD_PARTY_AUTH_ERROR") }, { kind: "fault" }],
    [
      "QUOTA_EXCEEDED with Retry-After",
      { status: 429, body: fcmError("QUOTA_EXCEEDED"), headers: { "retry-after": "77" } },
      { kind: "again", afterMs: 77_000 },
    ],
    [
      "UNAVAILABLE with Retry-After",
      { status: 503, body: fcmError("UNAVAILABLE"), headers: { "retry-after": "1" } },
      { kind: "again", afterMs: 1_000 },
    ],
    ["INTERNAL", { status: 500, body: fcmError("INTERNAL") }, again],
    ["no JSON", { status: 502, body: "<html>" }, again],
    ["a broken connection", { how: "reset" }, again],
  ];
  test.each(answers)("%s is one request, and what the table says", async (_, answer, outcome) => {
    fake.answerAlways(answer);
    expect(await wake()).toMatchObject(outcome);
    expect(fake.asked).toHaveLength(1);
  });

  test("silence is no answer", async () => {
    fake.answerAlways({ how: "silent" });
    expect(await wake()).toEqual(again);
  });

  test("a host under another name is not believed", async () => {
    await door.close();
    door = openFcm({ serviceAccountFile: account.file, address: fake.address, ca: undefined });
    expect((await wake()).kind).not.toBe("woken");
    expect(fake.asked).toEqual([]);
  });
});

describe("APNs, by node-apn", () => {
  let sandbox: FakeProvider;
  beforeEach(async () => {
    fake = await openFakeApns();
    sandbox = await openFakeApns();
    const addresses = { production: fake.address, sandbox: sandbox.address };
    door = openApns({
      key: fakeApnsKey(),
      keyId: "KEY1234567",
      teamId: "TEAM123456",
      topic: "com.example.agent",
      addresses,
      ca,
    });
  });
  afterEach(() => sandbox.close());

  const wake = (changes: Partial<Device> = {}) =>
    door.wake(device("apns", { environment: "production", ...changes }), "wake");
  const refusal = (
    status: number,
    reason: string,
    more: object = {},
    headers: Record<string, string> = {},
  ): FakeAnswer => {
    return { status, body: { reason, ...more }, headers };
  };

  test("a wake in the background has priority 5 and says nothing about any message", async () => {
    expect(await wake()).toEqual({ kind: "woken" });
    const [asked] = fake.asked;
    expect(asked).toMatchObject({
      path: `/3/device/${token}`,
      headers: {
        "apns-push-type": "background",
        "apns-priority": "5",
        "apns-topic": "com.example.agent",
        "apns-collapse-id": "inbox",
        ":authority": "api.push.apple.com",
      },
    });
    expect(JSON.parse(asked?.body ?? "")).toEqual({ aps: { "content-available": 1 }, v: 1 });
  });

  test("an urgent one is an alert with a general word, which the app may replace", async () => {
    await wake({ urgency: "urgent" });
    const [asked] = fake.asked;
    expect(asked?.headers).toMatchObject({ "apns-push-type": "alert", "apns-priority": "10" });
    expect(JSON.parse(asked?.body ?? "")).toEqual({ aps: { alert: "New activity", "mutable-content": 1 }, v: 1 });
  });

  test.each([
    ["Unregistered", refusal(410, "Unregistered", { timestamp: 1_700 }), { kind: "gone", registeredBefore: 1_700 }],
    ["ExpiredToken", refusal(410, "ExpiredToken", { timestamp: 1_700 }), { kind: "gone", registeredBefore: 1_700 }],
    ["InvalidProviderToken", refusal(403, "InvalidProviderToken"), { kind: "fault" }],
    ["TooManyRequests", refusal(429, "TooManyRequests"), again],
    [
      "TooManyRequests with Retry-After",
      refusal(429, "TooManyRequests", {}, { "retry-after": "40" }),
      { kind: "again", afterMs: 40_000 },
    ],
    ["TooManyProviderTokenUpdates", refusal(429, "TooManyProviderTokenUpdates"), again],
    ["PayloadTooLarge", refusal(413, "PayloadTooLarge"), { kind: "bug" }],
    ["InternalServerError", refusal(500, "InternalServerError"), again],
    [
      "ServiceUnavailable with Retry-After",
      refusal(503, "ServiceUnavailable", {}, { "retry-after": "9" }),
      { kind: "again", afterMs: 9_000 },
    ],
    ["Shutdown and GOAWAY", { ...refusal(503, "Shutdown"), how: "goaway" } as FakeAnswer, again],
    ["an error without a body", { status: 503, headers: { "retry-after": "3" } }, { kind: "again", afterMs: 3_000 }],
    ["a broken stream", { how: "reset" } as FakeAnswer, again],
  ] as const)("%s is one request, and what the table says", async (_, answer, outcome) => {
    fake.answerAlways(answer);
    expect(await wake()).toMatchObject(outcome);
    expect([fake.asked.length, sandbox.asked.length]).toEqual([1, 0]);
  });

  test("silence is no answer", async () => {
    fake.answerAlways({ how: "silent" });
    expect(await wake()).toEqual(again);
  });

  test("after a GOAWAY the next wake goes over a new connection", async () => {
    fake.answerNext({ how: "goaway" });
    expect(await wake()).toEqual({ kind: "woken" });
    expect(await wake()).toEqual({ kind: "woken" });
    expect([fake.asked.length, fake.connections()]).toEqual([2, 2]);
  });

  test.each(["BadDeviceToken", "DeviceTokenNotForTopic"])(
    "%s: the other environment is asked, once",
    async (reason) => {
      fake.answerAlways(refusal(400, reason));
      expect(await wake()).toEqual({ kind: "woken", environment: "sandbox" });
      expect([fake.asked.length, sandbox.asked.length]).toEqual([1, 1]);
      sandbox.answerNext(refusal(400, reason));
      expect(await wake()).toMatchObject({ kind: "foreign" });
      expect([fake.asked.length, sandbox.asked.length]).toEqual([2, 2]);
      sandbox.answerNext(refusal(503, "ServiceUnavailable"));
      expect(await wake()).toEqual(again);
    },
  );

  test("ExpiredProviderToken: a new JWT, once; in vain it is our fault", async () => {
    fake.answerNext(refusal(403, "ExpiredProviderToken"));
    expect(await wake()).toEqual({ kind: "woken" });
    fake.answerAlways(refusal(403, "ExpiredProviderToken"));
    expect(await wake()).toMatchObject({ kind: "fault" });
    expect(fake.asked).toHaveLength(4);
  });

  test("both environments are given the same JWT", async () => {
    await wake();
    await wake({ environment: "sandbox" });
    const [one, other] = [fake.asked[0]?.headers.authorization, sandbox.asked[0]?.headers.authorization];
    expect(one).toMatch(/^bearer ey/);
    expect(other).toBe(one);
  });

  test("wakes of one token at the same time get each its own answer", async () => {
    fake.answerNext(refusal(503, "Shutdown"), {}, {});
    const outcomes = await Promise.all([wake(), wake(), wake()]);
    expect(outcomes.map(({ kind }) => kind).toSorted()).toEqual(["again", "woken", "woken"]);
  });
});

describe("webhooks", () => {
  beforeEach(async () => {
    fake = await openFakeWebhook();
    door = openWebhooks({ any: true, ca });
  });

  const at = (url: string) =>
    door.wake(device("webhook", { address: url, secret }), "0198c0de-0000-7000-8000-000000000000");
  const own = (path = "/wake") => `https://localhost:${fake.address.port}${path}`;

  test("a call is signed as Standard Webhooks says, names the device and nothing of any message, and has one id for all attempts", async () => {
    fake.answerNext({ status: 500 });
    expect(await at(own())).toEqual(again);
    expect(await at(own())).toEqual({ kind: "woken" });
    const [first, second] = fake.asked;
    for (const { headers, body } of fake.asked) {
      const payload = new Webhook(secret).verify(body, headers as Record<string, string>);
      expect(payload).toEqual({
        type: "inbox.waiting",
        timestamp: expect.any(String),
        data: { device_id: device("webhook").deviceId },
      });
    }
    expect(first?.headers["webhook-id"]).toBe(second?.headers["webhook-id"]);
    expect(first?.headers["webhook-id"]).not.toContain(".");
  });

  test.each([
    [{ status: 410 }, { kind: "gone" }],
    [
      { status: 429, headers: { "retry-after": "30" } },
      { kind: "again", afterMs: 30_000 },
    ],
    [{ status: 404 }, again],
    [{ how: "reset" }, again],
    [{ how: "silent" }, again],
  ] as const)("an answer %j is what the table says", async (answer, outcome) => {
    fake.answerAlways(answer);
    expect(await at(own())).toMatchObject(outcome);
  });

  test("a redirect is not followed", async () => {
    fake.answerNext({ status: 307, headers: { location: own("/elsewhere") } });
    expect(await at(own())).toEqual(again);
    expect(fake.asked.map(({ path }) => path)).toEqual(["/wake"]);
  });

  test("of an answer without an end no more is read than a little", async () => {
    let written = 0;
    const endless = createServer((_, response) => {
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(16 * 1024))) written += 16 * 1024;
      };
      response.on("drain", more);
      more();
    });
    await new Promise<void>((resolve) => endless.listen(0, "127.0.0.1", resolve));
    expect(await at(`http://127.0.0.1:${(endless.address() as AddressInfo).port}/`)).toEqual({ kind: "woken" });
    expect(written).toBeLessThan(16 * 1024 * 1024);
    endless.closeAllConnections();
    await new Promise((resolve) => endless.close(resolve));
  });

  describe("where only public hosts are called", () => {
    beforeEach(() => {
      door = openWebhooks({ any: false, ca });
    });

    test.each([
      ["this host by name", () => own()],
      ["this host by address", () => own().replace("localhost", "127.0.0.1")],
      ["this host by another loopback address", () => own().replace("localhost", "127.8.9.1")],
      ["this host in one number", () => own().replace("localhost", "2130706433")],
      ["this host by IPv6", () => own().replace("localhost", "[::1]")],
      ["this host by IPv4 in IPv6", () => own().replace("localhost", "[::ffff:127.0.0.1]")],
      ["this host by IPv4 through NAT64", () => own().replace("localhost", "[64:ff9b::7f00:1]")],
      ["no host", () => own().replace("localhost", "0.0.0.0")],
      ["a private network", () => "https://10.0.0.1/"],
      ["another private network", () => "https://192.168.1.1/"],
      ["a carrier's network", () => "https://100.64.0.1/"],
      ["the metadata of a cloud", () => "https://169.254.169.254/latest/meta-data/"],
      ["the metadata of another cloud", () => "https://168.63.129.16/"],
      ["the metadata of a cloud by IPv6", () => "https://[fd00:ec2::254]/"],
      ["a multicast group", () => "https://224.0.0.1/"],
      ["plain http", () => `http://localhost:${fake.address.port}/`],
    ])("%s is not called", async (_, url) => {
      expect(await at(url())).toEqual(again);
      expect([fake.asked.length, fake.connections()]).toEqual([0, 0]);
    });
  });
});
