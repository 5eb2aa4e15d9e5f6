import type { IncomingMessage } from "node:http";
import { expect, test } from "vitest";
import { openAddresses } from "./client-address.ts";

function requestFrom(remoteAddress: string | undefined, forwarded?: string): IncomingMessage {
  const headers = forwarded === undefined ? {} : { "x-forwarded-for": forwarded };
  return { headers, socket: { remoteAddress } } as unknown as IncomingMessage;
}

const addressOf = openAddresses(["10.0.0.0/8", "fd00::/8"]);

test.each([
  ["203.0.113.9", undefined, "203.0.113.9"],
  ["::ffff:203.0.113.9", undefined, "203.0.113.9"],
  ["203.0.113.9", "198.51.100.1", "203.0.113.9"],
  ["10.1.2.3", "198.51.100.1", "198.51.100.1"],
  ["::ffff:10.1.2.3", "198.51.100.1", "198.51.100.1"],
  ["10.1.2.3", "192.0.2.66, 198.51.100.1, 10.9.9.9", "198.51.100.1"],
  ["10.1.2.3", "not an address", "unknown"],
  ["2001:db8:1:2:3:4:5:6", undefined, "2001:db8:1:2::/64"],
  ["2001:db8:1:2:ffff::1", undefined, "2001:db8:1:2::/64"],
  ["fd00::1", "2001:db8:1:3::9", "2001:db8:1:3::/64"],
  [undefined, undefined, "unknown"],
])("a connection from %s that forwards for %s counts for %s", (remote, forwarded, expected) => {
  expect(addressOf(requestFrom(remote, forwarded))).toBe(expected);
});

test("what is neither an address nor a network is refused at once", () => {
  expect(() => openAddresses(["proxy.example"])).toThrow(TypeError);
});
