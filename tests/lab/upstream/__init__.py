"""A small faithful internet on this machine: real servers with real content, under the true upstream names.

`build()` makes everything (minutes the first time, a second afterwards), `start()` serves it on 127.0.0.1, and
`mirrors()` says which upstream is where; the same is in mirrors.yaml, for `bundler --config`.
"""
