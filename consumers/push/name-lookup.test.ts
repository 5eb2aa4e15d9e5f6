import type { LookupOptions } from "node:dns";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type FakeNames, openFakeNames } from "../../tests/fake-names.ts";
import { providersCa as ca, type FakeProvider, openFakeWebhook } from "../../tests/fake-providers.ts";
import { lookupBy } from "./name-lookup.ts";
import type { PushDoor } from "./outcomes.ts";
import { openWebhooks } from "./webhook-door.ts";

let names: FakeNames;
beforeEach(async () => {
  names = await openFakeNames({
    "both.test": ["2001:db8::7", "192.0.2.7", "192.0.2.8"],
    "half.test": { broken: 6, other: "192.0.2.9" },
    "other-half.test": { broken: 4, other: "2001:db8::9" },
    "silent.test": "silent",
    "own.test": ["127.0.0.1"],
    "own-6.test": ["::1"],
    "mixed.test": ["192.0.2.1", "127.0.0.1"],
    "mapped.test": ["::ffff:7f00:1"],
    "metadata.test": ["169.254.169.254"],
  });
});
afterEach(() => names.close());

function find(name: string, options: LookupOptions = { all: true }): Promise<unknown> {
  return new Promise((resolve) => {
    lookupBy([names.server])(name, options, (error, address, family) => {
      resolve(error === null ? (options.all ? address : [address, family]) : error.code);
    });
  });
}

const [one, two, six] = [
  { address: "192.0.2.7", family: 4 },
  { address: "192.0.2.8", family: 4 },
  { address: "2001:db8::7", family: 6 },
];

test("a name's addresses are found, of both families or of the one that is wanted, all or the first", async () => {
  expect(await find("both.test")).toEqual([one, two, six]);
  expect(names.asked.toSorted()).toEqual(["4 both.test", "6 both.test"]);
  expect(await find("both.test", { all: true, family: 4 })).toEqual([one, two]);
  expect(await find("both.test", { all: true, family: 6 })).toEqual([six]);
  expect(await find("both.test", {})).toEqual(["192.0.2.7", 4]);
});

test("a family whose lookup fails leaves the other one; a name that is not there is an error", async () => {
  expect(await find("half.test")).toEqual([{ address: "192.0.2.9", family: 4 }]);
  expect(await find("other-half.test")).toEqual([{ address: "2001:db8::9", family: 6 }]);
  expect(await find("nobody.test")).toBe("ENOTFOUND");
});

test("names whose servers are silent hold nobody else up, and end", async () => {
  const ended: string[] = [];
  const silent = Array.from({ length: 16 }, () => find("silent.test").then((code) => ended.push(String(code))));
  expect(await find("both.test")).toHaveLength(3);
  expect(ended).toEqual([]);
  await Promise.all(silent);
  expect(ended).toEqual(Array.from({ length: 16 }, () => "ETIMEOUT"));
});

describe("a webhook whose name", () => {
  let fake: FakeProvider;
  let door: PushDoor;
  beforeEach(async () => {
    fake = await openFakeWebhook();
    door = openWebhooks({ any: false, ca, nameServers: [names.server] });
  });
  afterEach(async () => {
    await door.close();
    await fake.close();
  });

  test.each(["own.test", "own-6.test", "mixed.test", "mapped.test", "metadata.test", "silent.test"])(
    "%s leads to an address that is not public, or nowhere, is not called",
    async (name) => {
      const secret = `whsec_${Buffer.alloc(32, 7).toString("base64")}`;
      const base = { agentId: "a".repeat(43), deviceId: "d", kind: "webhook", environment: null } as const;
      const address = `https://${name}:${fake.address.port}/`;
      const device = { ...base, urgency: "background", secret, createdAt: 1, refreshedAt: 1, address } as const;
      expect(await door.wake(device, "wake")).toEqual({ kind: "again", afterMs: null });
      expect(names.asked).toContain(`4 ${name}`);
      expect([fake.asked.length, fake.connections()]).toEqual([0, 0]);
    },
  );
});
