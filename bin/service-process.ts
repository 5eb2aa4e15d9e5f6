/**
 * Runs the service as its users do: `bin/service.ts` in a process of its own, told everything through the environment. Agents need
 * no owner, unless `env` says so.
 *
 * The process ends with its parent, however that ends.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { createInterface } from "node:readline";
import type { StackUrls } from "../infra/local/stack.ts";

export interface ServiceProcess {
  readonly pid: number;
  /** Where it answers: the API, or health and metrics. */
  readonly url: string;
  /** What it wrote so far: logs, one JSON line each. */
  output(): string;
  /** SIGTERM, and waits. */
  stop(): Promise<void>;
  /** SIGKILL, and waits. */
  kill(): Promise<void>;
  /** Resolves with the signal or exit code when the process has ended. */
  readonly ended: Promise<string>;
}

export interface ServiceOptions {
  /** Empty: all roles. */
  readonly roles?: readonly string[];
  readonly prepare?: boolean;
  readonly env?: Readonly<Record<string, string>>;
}

const entry = path.join(import.meta.dirname, "service.ts");

/** @throws Error with what the process wrote, when it ends before it is ready. */
export async function startService(urls: StackUrls, options: ServiceOptions = {}): Promise<ServiceProcess> {
  const child = spawn(process.execPath, [entry, ...(options.prepare ? ["--prepare"] : []), ...(options.roles ?? [])], {
    env: {
      PATH: path.dirname(process.execPath),
      SEALPOST_KAFKA_BROKERS: urls.kafkaBrokers.join(","),
      SEALPOST_REGISTRY_URL: urls.registryUrl,
      SEALPOST_POSTGRES_URL: urls.postgresUrl,
      SEALPOST_REDIS_URL: urls.redisUrl,
      SEALPOST_HTTP_PORT: "0",
      SEALPOST_REGISTRATION: "open",
      SEALPOST_LOG_LEVEL: "debug",
      ...options.env,
    },
    // The channel closes when this process ends; the service then stops.
    stdio: ["ignore", "pipe", "pipe", "ipc"],
  });
  const lines: string[] = [];
  const ended = once(child, "exit").then(([code, signal]) => String(signal ?? code));
  const url = await readyUrl(child, lines, ended);
  return {
    pid: child.pid as number,
    url,
    output: () => lines.join("\n"),
    ended,
    stop: async () => {
      child.kill("SIGTERM");
      await ended;
    },
    kill: async () => {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

function readyUrl(child: ChildProcess, lines: string[], ended: Promise<string>): Promise<string> {
  return new Promise((resolve, reject) => {
    if (child.stdout === null || child.stderr === null) throw new Error("the child has no pipes");
    createInterface({ input: child.stderr }).on("line", (line) => lines.push(line));
    createInterface({ input: child.stdout }).on("line", (line) => {
      lines.push(line);
      const url = /^ready (\S+)$/.exec(line)?.[1];
      if (url !== undefined) resolve(url);
    });
    void ended.then((how) => reject(new Error(`the service ended (${how}) before it was ready:\n${lines.join("\n")}`)));
  });
}
