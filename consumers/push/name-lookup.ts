/**
 * Looks the names of webhooks up, for `net.connect`.
 *
 * Promise: DNS servers are asked from here, without a thread. The system's own lookup holds one of the few threads that the whole process shares for as
 * long as a name's server is silent, and agents choose the names. Hosts files and search domains are not read: the names are public ones.
 */
import type { LookupAddress } from "node:dns";
import { Resolver } from "node:dns/promises";
import type { LookupFunction } from "node:net";

/** One lost packet is made up for within the time of a call (`webhook-door.ts`). */
const limits = { timeout: 1_000, maxTimeout: 1_000, tries: 2 };

/** @param nameServers instead of the system's, `address:port` */
export function lookupBy(nameServers: readonly string[] | undefined): LookupFunction {
  async function find(name: string, family: 0 | 4 | 6): Promise<readonly [LookupAddress, ...LookupAddress[]]> {
    // One for each name: a shared one would remember a server as bad because of one name, for all.
    const resolver = new Resolver(limits);
    if (nameServers !== undefined) resolver.setServers(nameServers);
    const answers = await Promise.allSettled([
      family === 6 ? [] : resolver.resolve4(name).then((found) => found.map((address) => ({ address, family: 4 }))),
      family === 4 ? [] : resolver.resolve6(name).then((found) => found.map((address) => ({ address, family: 6 }))),
    ]);
    const [first, ...more] = answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
    if (first !== undefined) return [first, ...more];
    throw answers.find((answer) => answer.status === "rejected")?.reason ?? new Error("the name has no address");
  }

  return (name, options, callback) => {
    const family = options.family === 6 || options.family === "IPv6" ? 6 : options.family ? 4 : 0;
    find(name, family).then(
      ([first, ...more]) => {
        if (options.all) callback(null, [first, ...more]);
        else callback(null, first.address, first.family);
      },
      (error: NodeJS.ErrnoException) => callback(error, ""),
    );
  };
}
