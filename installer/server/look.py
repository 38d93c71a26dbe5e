"""How the page looks and refreshes: no file of its own, so that the page needs nothing but itself."""

CSS = """
:root{color-scheme:light dark;--bg:#f5f6f8;--card:#fff;--ink:#1b2330;--dim:#5d6878;--line:#dfe3ea;--code:#eef1f6;
--accent:#2453d6;--good:#12733b;--goodbg:#dcf4e5;--bad:#b3261e;--badbg:#fde7e5;--busybg:#e4ebfd}
@media(prefers-color-scheme:dark){:root{--bg:#10141b;--card:#181e28;--ink:#e6eaf1;--dim:#98a4b5;--line:#2b3443;
--code:#10151d;--accent:#8fb0ff;--good:#6fdd9b;--goodbg:#12341f;--bad:#ff9c93;--badbg:#421b19;--busybg:#1d2c52}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif}
main,header{max-width:1080px;margin:0 auto;padding:0 20px}
header{padding-top:30px;display:flex;flex-wrap:wrap;gap:6px 18px;align-items:baseline}
h1{font-size:26px;margin:0;letter-spacing:-.01em}h2{font-size:18px;margin:0 0 12px}h3{font-size:15px;margin:20px 0 8px}
header p{margin:0;color:var(--dim)}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px 22px;margin:18px 0}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:14px;margin:0}
.facts div{border-left:3px solid var(--accent);padding-left:12px}
.facts dt{color:var(--dim);font-size:13px}.facts dd{margin:0;font-size:20px;font-weight:600}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;color:var(--dim);font-weight:500;font-size:13px;padding:4px 14px 6px 0;white-space:nowrap}
td{border-top:1px solid var(--line);padding:8px 14px 8px 0;vertical-align:middle}
td:last-child,th:last-child{padding-right:0}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
tr.why td{border-top:0;padding-top:0}
.why p{margin:0 0 4px;background:var(--badbg);color:var(--bad);border-radius:8px;padding:8px 12px}
.why b{color:var(--ink);font-weight:600}
.badge{display:inline-block;border-radius:99px;padding:1px 10px;font-size:13px;font-weight:600;white-space:nowrap}
.done{background:var(--goodbg);color:var(--good)}.failed{background:var(--badbg);color:var(--bad)}
.started{background:var(--busybg);color:var(--accent)}.silent{background:var(--code);color:var(--dim)}
progress{appearance:none;width:120px;height:8px;border:0;border-radius:99px;background:var(--code);vertical-align:middle}
progress::-webkit-progress-bar{background:var(--code);border-radius:99px}
progress::-webkit-progress-value{background:var(--accent);border-radius:99px}
progress::-moz-progress-bar{background:var(--accent);border-radius:99px}
.full::-webkit-progress-value{background:var(--good)}.full::-moz-progress-bar{background:var(--good)}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:13px}
pre{background:var(--code);border:1px solid var(--line);border-radius:8px;margin:0;padding:10px 12px;
white-space:pre-wrap;overflow-wrap:anywhere}
.line{position:relative;margin:4px 0 12px}
.line button{position:absolute;top:7px;right:7px;font:inherit;font-size:12px;padding:1px 9px;border-radius:6px;
border:1px solid var(--line);background:var(--card);color:var(--ink);cursor:pointer}
.line:has(button) pre{padding-right:74px}
summary{cursor:pointer;color:var(--accent);font-size:14px}
a{color:var(--accent);text-underline-offset:3px}.dim{color:var(--dim)}
code.digest{color:var(--dim);overflow-wrap:anywhere}
footer{max-width:1080px;margin:0 auto;padding:0 20px 30px;color:var(--dim);font-size:13px}
@media(max-width:640px){header{padding-top:18px}section{padding:16px}.facts dd{font-size:17px}}
"""
COPY_JS = """
"use strict";
function copying(){for(const line of document.querySelectorAll(".line")){const b=document.createElement("button");
b.type="button";b.textContent="Copy";b.onclick=()=>{const range=document.createRange();
range.selectNodeContents(line.querySelector("pre"));getSelection().removeAllRanges();getSelection().addRange(range);
document.execCommand("copy");b.textContent="Copied";setTimeout(()=>{b.textContent="Copy"},1500)};line.append(b)}}
copying();
"""
JS = COPY_JS + """
async function refresh(){const live=document.getElementById("live");try{const reply=await fetch("/",{cache:"no-store"});
const page=new DOMParser().parseFromString(await reply.text(),"text/html");
live.innerHTML=page.getElementById("live").innerHTML}catch(e){
const old=document.getElementById("stale");if(old)
old.textContent="The server does not answer; this is what it said last."}
setTimeout(refresh,2000)}
setTimeout(refresh,2000);
"""
