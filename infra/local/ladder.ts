/**
 * Which ways lead to a running server, in which order, and what to say when none did. Pure: no I/O.
 *
 * Promises: a URL given in the environment is the only way tried for its server; else a container comes before a local
 * process; a failure names all three ways and what became of each.
 */

export const serverNames = ["kafka", "registry", "postgres", "redis"] as const;
export type ServerName = (typeof serverNames)[number];
export type Way = "given" | "container" | "local";
export type Env = Readonly<Record<string, string | undefined>>;

export const urlVariables: Readonly<Record<ServerName, string>> = {
  kafka: "SEALPOST_KAFKA_BROKERS",
  registry: "SEALPOST_REGISTRY_URL",
  postgres: "SEALPOST_POSTGRES_URL",
  redis: "SEALPOST_REDIS_URL",
};

/** "container" or "local" leaves the other one out; anything else tries both. */
const wayVariable = "SEALPOST_STACK_WAY";

const titles: Readonly<Record<ServerName, string>> = {
  kafka: "Kafka",
  registry: "The schema registry",
  postgres: "PostgreSQL",
  redis: "Redis",
};

/** What became of a way that did not lead to a server. */
export interface Attempt {
  readonly way: Way;
  readonly outcome: string;
}

export interface Failure {
  readonly server: ServerName;
  readonly attempts: readonly Attempt[];
}

/** The URL in the environment; null when there is none (an empty variable is none). */
export function givenUrl(server: ServerName, env: Env): string | null {
  const value = env[urlVariables[server]]?.trim();
  return value === undefined || value === "" ? null : value;
}

/** `engineMissing` says why no container engine can be used; null when one answers. */
export function waysToTry(server: ServerName, env: Env, engineMissing: string | null): readonly Way[] {
  if (givenUrl(server, env) !== null) return ["given"];
  const only = env[wayVariable];
  const ways: Way[] = [];
  if (engineMissing === null && only !== "local") ways.push("container");
  if (only !== "container") ways.push("local");
  return ways;
}

/** One message for all servers that could not be had. */
export function explainFailure(failures: readonly Failure[], env: Env, engineMissing: string | null): string {
  return failures.map((failure) => explainOne(failure, env, engineMissing)).join("\n\n");
}

function explainOne({ server, attempts }: Failure, env: Env, engineMissing: string | null): string {
  const outcome = (way: Way) => attempts.find((attempt) => attempt.way === way)?.outcome;
  const variable = urlVariables[server];
  const given = outcome("given");
  if (given !== undefined) {
    return `${titles[server]} is set by ${variable}, but ${given}\nStart that server, or unset ${variable} to have one started here.`;
  }
  const only = env[wayVariable];
  const leftOut = `left out, because ${wayVariable} is "${only}"`;
  const container = outcome("container") ?? (only === "local" ? leftOut : (engineMissing ?? "not tried"));
  const local = outcome("local") ?? (only === "container" ? leftOut : "not tried");
  return [
    `${titles[server]} could not be started. There are three ways to have one:`,
    `  1. A server of your own: set ${variable}. It is not set.`,
    `  2. A container: ${container}`,
    `  3. A local process: ${local}`,
  ].join("\n");
}

/** The servers could not be had; its message is meant for a person and names every way that was tried. */
export class StackUnavailable extends Error {
  override readonly name = "StackUnavailable";
}

/** A server's URL without its password, fit to be shown. */
export function withoutPassword(url: string): string {
  return url.replace(/\/\/([^:@/]*):[^@/]*@/, "//$1:***@");
}
