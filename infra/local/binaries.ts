/**
 * The binaries of servers that run as local processes: fetched once by Maven into a cache that all stacks share.
 *
 * Promises: a folder in the cache is complete, because it is moved in place in one step; two first starts fetch once;
 * a fetch that was cancelled or killed leaves nothing that a later start would take for binaries. The folder's name
 * holds a hash of its pom, so a new version never meets old files.
 */
import { createHash } from "node:crypto";
import { access, constants, mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Guard } from "./guard.ts";
import type { Env, ServerName } from "./ladder.ts";
import { lockWhenFree } from "./lock.ts";
import type { ProgressSink } from "./progress.ts";

/** The way cannot be taken on this machine; the message ends a sentence that begins with the way's name. */
export class CannotRun extends Error {
  override readonly name = "CannotRun";
}

export interface Workshop {
  readonly guard: Guard;
  readonly env: Env;
  readonly cacheDir: string;
  readonly progress: ProgressSink;
  readonly signal: AbortSignal | undefined;
}

interface Bundle {
  readonly server: ServerName;
  /** Folder under `maven/`, and the beginning of the folder's name in the cache. */
  readonly pom: string;
  readonly goal: readonly string[];
  /** About what Maven downloads when its own repository is empty; only for the display. */
  readonly megabytes: number;
}

const unpack = ["dependency:unpack-dependencies", "-Dmdep.unpack.excludes=META-INF/**"] as const;

export const bundles = {
  kafka: {
    server: "kafka",
    pom: "kafka",
    goal: ["dependency:copy-dependencies", "-DincludeScope=runtime"],
    megabytes: 46,
  },
  registry: { server: "registry", pom: "registry", goal: unpack, megabytes: 142 },
  redis: { server: "redis", pom: "redis", goal: unpack, megabytes: 12 },
} as const satisfies Record<string, Bundle>;

/** The folder with the bundle's files, fetched when it is not there yet. Throws `CannotRun`. */
export async function fetchBundle(bundle: Bundle, shop: Workshop): Promise<string> {
  const pomFile = join(import.meta.dirname, "maven", bundle.pom, "pom.xml");
  const key = createHash("sha256")
    .update(await readFile(pomFile))
    .digest("hex")
    .slice(0, 12);
  const folder = join(shop.cacheDir, `${bundle.pom}-${key}`);
  if (await exists(folder)) return folder;

  const maven = await findOnPath("mvn", shop.env);
  if (maven === null) {
    throw new CannotRun("Maven, which fetches the binaries on the first start, is not on the PATH (command: mvn).");
  }
  await mkdir(shop.cacheDir, { recursive: true });
  // One lock for all bundles: Maven's own repository is not safe against two downloads of the same file.
  const lock = await lockWhenFree(
    join(shop.cacheDir, "fetch.lock"),
    (pid) => {
      if (pid !== process.pid)
        note(shop, bundle, `waiting for another first start (process ${pid}) to finish its download`);
    },
    shop.signal,
  );
  try {
    if (await exists(folder)) return folder;
    await removeUnfinished(shop.cacheDir);
    const unfinished = join(shop.cacheDir, `${unfinishedPrefix}${bundle.pom}-${process.pid}`);
    await runMaven(maven, bundle, pomFile, unfinished, shop);
    await rename(join(unfinished, "files"), folder);
    await rm(unfinished, { recursive: true, force: true });
    return folder;
  } finally {
    await lock.release();
  }
}

const unfinishedPrefix = ".unfinished-";

/** Only ever called with the lock held, so whatever it finds belongs to a fetch that died. */
async function removeUnfinished(cacheDir: string): Promise<void> {
  for (const name of await readdir(cacheDir)) {
    if (name.startsWith(unfinishedPrefix)) await rm(join(cacheDir, name), { recursive: true, force: true });
  }
}

async function runMaven(maven: string, bundle: Bundle, pom: string, into: string, shop: Workshop): Promise<void> {
  const begun = Date.now();
  const { server, megabytes: totalMb } = bundle;
  let finishedMb = 0;
  shop.progress({ kind: "download", server, doneMb: 0, totalMb });
  const { code, output, error } = await shop.guard.run(
    {
      command: maven,
      args: [
        "-Dstyle.color=never",
        "-f",
        pom,
        ...bundle.goal,
        `-DoutputDirectory=${join(into, "files")}`,
        `-DmarkersDirectory=${join(into, "markers")}`,
      ],
      cwd: shop.cacheDir,
      // Maven finds its settings, its proxy and its repository by the user's own environment.
      env: definedOnly(shop.env),
    },
    (text) => {
      finishedMb += downloadedMb(text);
      shop.progress({ kind: "download", server, doneMb: finishedMb + underWayMb(text), totalMb });
    },
  );
  shop.signal?.throwIfAborted();
  if (code !== 0) {
    const why = output.split("\n").find((line) => line.startsWith("[ERROR]")) ?? error ?? `exit code ${code}`;
    throw new CannotRun(`Maven could not fetch the binaries: ${why.replace("[ERROR] ", "").slice(0, 400)}`);
  }
  shop.progress({ kind: "downloaded", server, tookMs: Date.now() - begun });
}

/** Sums what Maven says it finished: "Downloaded from x: url (142 MB at 20 MB/s)". */
export function downloadedMb(text: string): number {
  let sum = 0;
  for (const found of text.matchAll(/Downloaded from [^\n]*\(([\d.]+) (B|kB|MB) at/g)) {
    sum += Number(found[1]) * megabytesPer(found[2]);
  }
  return sum;
}

/** The last "Progress (n): a | 12/142 MB" of a chunk; 0 when it holds none. */
export function underWayMb(text: string): number {
  const line = text.split(/[\r\n]/).findLast((part) => part.includes("Progress (")) ?? "";
  let sum = 0;
  for (const found of line.matchAll(/([\d.]+)(?: (B|kB|MB))?(?:\/[\d.]+ (B|kB|MB))/g)) {
    sum += Number(found[1]) * megabytesPer(found[2] ?? found[3]);
  }
  return sum;
}

function megabytesPer(unit: string | undefined): number {
  if (unit === "MB") return 1;
  return unit === "kB" ? 1e-3 : 1e-6;
}

function note(shop: Workshop, bundle: Bundle, text: string): void {
  shop.progress({ kind: "note", server: bundle.server, text });
}

export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** The full path of a command; null when the PATH holds none. */
export async function findOnPath(command: string, env: Env): Promise<string | null> {
  for (const folder of (env["PATH"] ?? "").split(":")) {
    if (folder === "") continue;
    const candidate = join(folder, command);
    const runnable = await access(candidate, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (runnable) return candidate;
  }
  return null;
}

export function definedOnly(env: Env): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined));
}

/** What a server of ours needs to see of the environment: nothing that would configure it behind our back. */
export function serverEnv(env: Env): Record<string, string> {
  const seen = definedOnly(env);
  const names = ["PATH", "HOME", "TMPDIR", "LANG", "JAVA_HOME", "TZ"];
  return Object.fromEntries(Object.entries(seen).filter(([name]) => names.includes(name)));
}
