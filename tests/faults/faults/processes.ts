/** Processes of the service that die, freeze, or die at a named point of a step. */
import { setTimeout as pause } from "node:timers/promises";
import type { Failpoint } from "../../../streams/runner-options.ts";
import { type Fault, oneOf } from "./fault.ts";

export const kill: Fault = {
  name: "kill",
  targets: ({ processes }) => processes,
  duration: (chance, msMax) => oneOf([0, 500, 2_000, 5_000], chance, msMax),
  inject: async (stage, { target, durationMs }) => {
    await stage.process(target).kill(durationMs);
    return undefined;
  },
};

/** 45 s is longer than a consumer group waits for a member (30 s): who wakes up then has lost its partitions, and does not know it. */
export const stop: Fault = {
  name: "stop",
  targets: ({ processes }) => processes,
  duration: (chance, msMax) => oneOf([5_000, 20_000, 45_000], chance, msMax),
  inject: async (stage, { target, durationMs }) => {
    await stage.process(target).freeze(durationMs);
    return undefined;
  },
};

const points: readonly Failpoint[] = [
  "before-commit",
  "after-commit",
  "after-publish",
  "before-offset-commit",
  "after-offset-commit",
];

/** Consumers with state: their steps have these points. */
const stepConsumers = ["encryption", "queuing", "acks", "sessions"];

/** It ends at once when it comes there; on a busy machine a consumer that takes the place of a killed one takes its time to the first step. */
const FAILPOINT_MS_MAX = 60_000;

export const failpoint: Fault = {
  name: "failpoint",
  isAlone: true,
  targets: ({ parts }) =>
    Object.entries(parts).flatMap(([process, names]) =>
      names
        .filter((part) => stepConsumers.includes(part))
        .flatMap((part) => points.map((point) => `${process}/${part}:${point}`)),
    ),
  duration: (chance, msMax) => oneOf([4_000, 8_000], chance, msMax),
  inject: async (stage, { target, chance }) => {
    const [process = "", spec = ""] = target.split("/");
    const env = { SEALPOST_FAILPOINT: `${spec}:${1 + chance.below(5)}` };
    await stage.process(process).dieOnce(env, FAILPOINT_MS_MAX);
    return undefined;
  },
};

/** A second process of the same parts comes and goes: partitions move each time. */
export const rebalance: Fault = {
  name: "rebalance",
  isAlone: true,
  targets: ({ processes, parts }) => processes.filter((name) => parts[name]?.every((part) => part !== "api")),
  duration: (chance, msMax) => oneOf([6_000, 15_000, 30_000], chance, msMax),
  inject: async (stage, { target, durationMs, chance }) => {
    const until = performance.now() + durationMs;
    do {
      const second = await stage.startBeside(target);
      await pause(500 + chance.below(2_500));
      await (chance.happens(0.5) ? second.kill() : second.stop());
    } while (performance.now() < until);
    return undefined;
  },
};
