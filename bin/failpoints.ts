/**
 * Named moments at which a test ends the process, as a power cut would, or freezes it, as a paused virtual machine does.
 */
import type { Failpoints } from "../streams/runner-options.ts";

/**
 * @param spec `<consumer>:<point>` or `<consumer>:<point>:<n>` to let it pass n − 1 times, `…:<n>:freeze` to stop it (SIGSTOP); undefined: nothing ever happens.
 */
export function failpoints(spec: string | undefined, consumer: string): Failpoints {
  const [name, point, count = "1", how] = spec?.split(":") ?? [];
  let left = Number(count);
  return {
    hit(reached) {
      if (name !== consumer || point !== reached) return;
      left -= 1;
      if (left === 0) process.kill(process.pid, how === "freeze" ? "SIGSTOP" : "SIGKILL");
    },
  };
}
