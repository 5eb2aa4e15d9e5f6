/**
 * How the two Java servers are started fast: the right Java, flags for small machines, and a class archive.
 *
 * Promises: without a class archive a server starts all the same, only about two seconds later. The archive is written
 * by a server's first clean end and moved into the cache afterwards, so no start ever waits for it.
 */
import { createHash } from "node:crypto";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { CannotRun, exists, findOnPath, serverEnv, type Workshop } from "./binaries.ts";

export interface Java {
  readonly command: string;
  /** The first line of `java -version`. */
  readonly version: string;
}

/** Kafka 4.1 and Apicurio Registry 2.6 need it. */
const javaVersionMin = 17;

/** JAVA_HOME, else the PATH. Throws `CannotRun`. */
export async function findJava(shop: Workshop): Promise<Java> {
  const home = shop.env["JAVA_HOME"];
  const fromHome = home === undefined || home === "" ? null : join(home, "bin", "java");
  const command = fromHome !== null && (await exists(fromHome)) ? fromHome : await findOnPath("java", shop.env);
  if (command === null) throw new CannotRun(`Java ${javaVersionMin} or newer is not on the PATH (command: java).`);
  const { code, output } = await shop.guard.run({
    command,
    args: ["-version"],
    cwd: shop.cacheDir,
    env: serverEnv(shop.env),
  });
  const version = output.split("\n").find((line) => line.includes("version")) ?? "";
  const major = majorOf(version);
  // macOS has a `java` that only says that there is none.
  if (code !== 0 || major === null) throw new CannotRun(`"${command} -version" does not answer like a Java.`);
  if (major < javaVersionMin) {
    throw new CannotRun(`Java ${javaVersionMin} or newer is needed, but "${command}" is ${version.trim()}.`);
  }
  return { command, version: version.trim() };
}

export function majorOf(versionLine: string): number | null {
  const found = /version "(?:1\.)?(\d+)/.exec(versionLine);
  return found === null ? null : Number(found[1]);
}

export interface ClassArchive {
  readonly flags: readonly string[];
  /** Whether the next clean end writes the archive. */
  readonly isWriting: boolean;
  /** Moves what a clean end wrote into the cache; does nothing when there is nothing. */
  adopt(): Promise<void>;
}

/** `bundle` is the folder of the jars, whose name tells their version; `dataDir` must be on the cache's file system or is copied to by nobody: a failed move only costs the speed-up. */
export async function classArchive(bundle: string, java: Java, dataDir: string): Promise<ClassArchive> {
  // An archive fits exactly one Java.
  const key = createHash("sha256").update(java.command).update(java.version).digest("hex").slice(0, 8);
  const kept = `${bundle}.${key}.jsa`;
  if (await exists(kept)) {
    return {
      flags: [`-XX:SharedArchiveFile=${kept}`, "-Xlog:cds=off"],
      isWriting: false,
      adopt: async () => undefined,
    };
  }
  const written = join(dataDir, "classes.jsa");
  await mkdir(dataDir, { recursive: true });
  await rm(written, { force: true });
  return {
    flags: [`-XX:ArchiveClassesAtExit=${written}`, "-Xlog:cds=off", "-Xlog:cds+dynamic=off"],
    isWriting: true,
    adopt: () => rename(written, kept).catch(() => undefined),
  };
}
