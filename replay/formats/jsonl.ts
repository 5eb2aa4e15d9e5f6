/** One JSON object a line, in UTF-8; each line ends in a newline. Nothing else ends one: U+2028 and U+2029, at which `readLines` splits, stand in JSON as they are. */
import { open } from "node:fs/promises";
import type { RowFormat } from "./format.ts";

export const jsonl: RowFormat = {
  async create(file) {
    const handle = await open(file, "w");
    return {
      write: async (rows) => void (await handle.write(rows.map((row) => `${JSON.stringify(row)}\n`).join(""))),
      close: () => handle.close(),
    };
  },

  async *read(file) {
    const handle = await open(file);
    try {
      let rest = "";
      for await (const chunk of handle.createReadStream({ encoding: "utf8", autoClose: false })) {
        const lines = `${rest}${chunk}`.split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) yield JSON.parse(line) as unknown;
      }
      if (rest !== "") yield JSON.parse(rest) as unknown;
    } finally {
      await handle.close();
    }
  },
};
