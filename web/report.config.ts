import { readFileSync } from "node:fs";
import type { Plugin } from "vite";
import { defineConfig } from "vite";

// The licence of uPlot asks to be with each copy, and each report has one.
const licence: Plugin = {
  name: "licence",
  generateBundle(_options, bundle) {
    for (const file of Object.values(bundle)) {
      if (file.type === "chunk") file.code = `/*!\nuPlot\n\n${readFileSync("node_modules/uplot/LICENSE", "utf8").trim()}\n*/\n${file.code.trim()}\n`;
    }
  },
};

// The script and the style that `etl report` puts into its page, which a browser opens from a disk: no module.
export default defineConfig({
  publicDir: false,
  plugins: [licence],
  build: {
    outDir: "../etl/report/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    minify: "terser",
    terserOptions: { ecma: 2020, toplevel: true, compress: { passes: 3 }, format: { comments: false, ascii_only: true } },
    lib: { entry: "src/report/main.ts", formats: ["iife"], name: "report", fileName: () => "report.js", cssFileName: "report" },
  },
});
