/**
 * What Node makes of our sources is kept beside them (`.sealpost/compiled`), so that the next process need not make it again: a command then starts in half the time. Where
 * the folder cannot be written, as in an image, nothing is kept.
 *
 * Only what is imported after the call is kept: an entry that calls this imports the rest dynamically.
 */
import { enableCompileCache, flushCompileCache } from "node:module";
import path from "node:path";

export function keepCompiled(): void {
  enableCompileCache(path.join(import.meta.dirname, "..", ".sealpost", "compiled"));
}

/** Now, and not only at the end of the process: that may be a kill. */
export function saveCompiled(): void {
  flushCompileCache();
}
