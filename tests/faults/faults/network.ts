/** Connections that lose answers, break, or are slow. */
import { setTimeout as pause } from "node:timers/promises";
import { produceApi } from "../../proxy.ts";
import { type Fault, oneOf } from "./fault.ts";

const LOST_ANSWER_MS_MAX = 60_000;

/** Parts that append with every message: of others there may be no request to lose an answer of. */
const appending = ["api", "encryption", "queuing", "acks"];

/**
 * What was asked happens, and its answer is lost. To Kafka: exactly the answers to some produce requests, and the connection lives on; where another protocol has no frames
 * that the proxy knows, everything that comes back for a while, and then the connection breaks.
 */
export const dropResponses: Fault = {
  name: "drop-responses",
  isAlone: true,
  targets: ({ links, parts }) =>
    links.filter((link) => {
      const [process = "", server] = link.split(">");
      return server !== "kafka" || parts[process]?.some((part) => appending.includes(part));
    }),
  duration: (chance, msMax) => oneOf([1_000, 3_000, 8_000], chance, msMax),
  inject: async (stage, { target, durationMs, chance }) => {
    const proxy = stage.link(target);
    if (target.endsWith(">kafka")) {
      const wanted = proxy.dropped + 1;
      proxy.dropAnswers(produceApi, 1 + chance.below(4));
      const until = performance.now() + LOST_ANSWER_MS_MAX;
      while (proxy.dropped < wanted) {
        if (performance.now() > until) throw new Error("nothing was produced over this connection");
        await pause(20);
      }
      return undefined;
    }
    proxy.mode = "deaf";
    await pause(durationMs);
    // What comes behind a gap in a stream of bytes is nonsense to whoever reads it.
    proxy.reset();
    proxy.mode = "open";
    return undefined;
  },
};

export const reset: Fault = {
  name: "reset",
  targets: ({ links }) => links,
  duration: (chance, msMax) => oneOf([0, 2_000], chance, msMax),
  inject: async (stage, { target, durationMs, chance }) => {
    const until = performance.now() + durationMs;
    do {
      stage.link(target).reset();
      await pause(50 + chance.below(400));
    } while (performance.now() < until);
    return undefined;
  },
};

export const delay: Fault = {
  name: "delay",
  targets: ({ links }) => links,
  duration: (chance, msMax) => oneOf([3_000, 8_000], chance, msMax),
  inject: async (stage, { target, durationMs, chance }) => {
    const proxy = stage.link(target);
    proxy.delayMs = 50 + chance.below(450);
    await pause(durationMs);
    proxy.delayMs = 0;
    return undefined;
  },
};

/** Nothing passes in either direction, and nobody is told. */
export const blackhole: Fault = {
  name: "blackhole",
  targets: ({ links }) => links,
  duration: (chance, msMax) => oneOf([2_000, 8_000, 20_000], chance, msMax),
  inject: async (stage, { target, durationMs }) => {
    const proxy = stage.link(target);
    proxy.mode = "silent";
    await pause(durationMs);
    proxy.reset();
    proxy.mode = "open";
    return undefined;
  },
};
