/** API2 of the matrix in tests/owasp: who calls. */
import { runCells } from "../../tests/owasp/run-cells.ts";

runCells("API2");
