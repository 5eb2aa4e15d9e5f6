/** SQLite, as Node brings it. One file, because the linter's list of built-in modules is older than `node:sqlite`. */
// biome-ignore lint/correctness/noUnresolvedImports: see above
export { DatabaseSync } from "node:sqlite";
