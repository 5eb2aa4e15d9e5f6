/**
 * What happens while a stack starts, told as events, and two ways to show them.
 *
 * Promises: everything goes to the given stream, never to stdout by itself; bars only where there is a terminal.
 */
import { MultiBar, Presets, type SingleBar } from "cli-progress";
import type { ServerName } from "./ladder.ts";

export type ProgressEvent =
  | { readonly kind: "note"; readonly server: ServerName | null; readonly text: string }
  /** `doneMb` may pass `totalMb`, which is what the download is known to be about. */
  | { readonly kind: "download"; readonly server: ServerName; readonly doneMb: number; readonly totalMb: number }
  | { readonly kind: "downloaded"; readonly server: ServerName; readonly tookMs: number };

export type ProgressSink = (event: ProgressEvent) => void;

export interface ProgressDisplay {
  readonly sink: ProgressSink;
  /** Takes the bars away, so that other output can follow. */
  close(): void;
}

export const silent: ProgressSink = () => undefined;

export function showProgress(stream: NodeJS.WriteStream): ProgressDisplay {
  return stream.isTTY ? bars(stream) : lines(stream);
}

function lines(stream: NodeJS.WritableStream): ProgressDisplay {
  const begun = new Set<ServerName>();
  return {
    sink: (event) => {
      if (event.kind === "note") stream.write(`${prefix(event.server)}${event.text}\n`);
      else if (event.kind === "downloaded") {
        stream.write(`${prefix(event.server)}downloaded in ${(event.tookMs / 1000).toFixed(1)} s\n`);
      } else if (!begun.has(event.server)) {
        begun.add(event.server);
        stream.write(`${prefix(event.server)}downloading about ${event.totalMb} MB (first start only)\n`);
      }
    },
    close: () => undefined,
  };
}

function bars(stream: NodeJS.WriteStream): ProgressDisplay {
  let all: MultiBar | null = null;
  const open = new Map<ServerName, SingleBar>();
  function close(): void {
    all?.stop();
    all = null;
    open.clear();
  }
  return {
    sink: (event) => {
      if (event.kind === "note") {
        const line = `${prefix(event.server)}${event.text}\n`;
        if (all === null) stream.write(line);
        else all.log(line);
        return;
      }
      if (event.kind === "downloaded") {
        const bar = open.get(event.server);
        bar?.update(bar.getTotal());
        return;
      }
      all ??= new MultiBar(
        { stream, format: "  {server} [{bar}] {value}/{total} MB", hideCursor: true, clearOnComplete: false },
        Presets.shades_classic,
      );
      const bar = open.get(event.server) ?? all.create(event.totalMb, 0, { server: event.server.padEnd(8) });
      open.set(event.server, bar);
      bar.update(Math.min(Math.round(event.doneMb), event.totalMb));
    },
    close,
  };
}

function prefix(server: ServerName | null): string {
  return server === null ? "  " : `  ${server.padEnd(8)} `;
}
