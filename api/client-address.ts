/**
 * Where a request comes from, as a key for limits.
 *
 * Promise: the address of the connection's other end, unless that is a trusted proxy; then the nearest address in `X-Forwarded-For` that is none. What
 * others write there is not believed. `Forwarded` is not read: a proxy that adds to one of the two would let the other through as the client made it.
 */
import type { IncomingMessage } from "node:http";
import ipaddr from "ipaddr.js";
import proxyAddr from "proxy-addr";

export type AddressOf = (request: IncomingMessage) => string;

/** Whoever has one IPv6 address has the other 2^64 of its network as well. */
const IPV6_NETWORK_BYTES = 8;

/**
 * @param trustedProxies addresses and networks (`10.0.0.0/8`, `loopback`)
 * @throws TypeError when one is neither
 */
export function openAddresses(trustedProxies: readonly string[]): AddressOf {
  const isTrusted = proxyAddr.compile([...trustedProxies]);
  return (request) => {
    try {
      return networkOf(proxyAddr(request, isTrusted));
    } catch {
      // A trusted proxy wrote what is no address, or the connection has gone already: these share one limit.
      return "unknown";
    }
  };
}

/** IPv4 as it is, IPv6 without its lower half. */
function networkOf(address: string): string {
  const parsed = ipaddr.process(address);
  if (parsed.kind() === "ipv4") return parsed.toString();
  const network = parsed.toByteArray().fill(0, IPV6_NETWORK_BYTES);
  return `${ipaddr.fromByteArray(network).toString()}/64`;
}
