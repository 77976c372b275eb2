"""The named chat templates: written by us from the public facts of each format, one entry a family.

Left out: what each vendor's own file adds around the format (default system prompts, dates, vision). A model's own
template, which comes with its tokenizer, is used unless a recipe names one of these.

Each renders `messages` (role, content, maybe tool_calls, tool_call_id, reasoning_content), `tools`, `bos_token`,
`eos_token` and `add_generation_prompt`; what a format has no place for is refused with a sentence, never left out.
"""

from __future__ import annotations

_ROLES = r"""
{%- macro refuse(message, format) -%}
{%- if message.role == 'tool' or message.tool_calls -%}
{{- raise_exception('the ' + format + ' template has no place for tools; use qwen, llama3, mistral or granite') -}}
{%- endif -%}
{%- endmacro -%}
"""
_SYSTEM_IN_USER = r"""
{%- set ns = namespace(system='') -%}
{%- if messages and messages[0].role == 'system' -%}{%- set ns.system = messages[0].content -%}{%- endif -%}
"""

CHATML = (
    _ROLES
    + r"""
{%- for message in messages -%}
{{- refuse(message, 'chatml') -}}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""
)

QWEN = r"""
{%- set ns = namespace(system='') -%}
{%- if messages and messages[0].role == 'system' -%}{%- set ns.system = messages[0].content -%}{%- endif -%}
{%- if tools -%}
{{- '<|im_start|>system\n' + (ns.system + '\n\n' if ns.system else '') -}}
{{- '# Tools\n\nYou may call one or more functions to assist with the user query.\n\n' -}}
{{- 'You are provided with function signatures within <tools></tools> XML tags:\n<tools>' -}}
{%- for tool in tools -%}{{- '\n' + tool | tojson -}}{%- endfor -%}
{{- '\n</tools>\n\nFor each function call, return a json object with function name and arguments within ' -}}
{{- '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n' -}}
{{- '</tool_call><|im_end|>\n' -}}
{%- elif ns.system -%}
{{- '<|im_start|>system\n' + ns.system + '<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' -}}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\n' -}}{%- endif -%}
{%- elif message.role == 'assistant' -%}
{{- '<|im_start|>assistant\n' -}}
{%- if message.reasoning_content -%}{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' -}}{%- endif -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}
{%- if message.content or not loop.first -%}{{- '\n' -}}{%- endif -%}
{{- '<tool_call>\n{"name": ' + call.function.name | tojson + ', "arguments": ' -}}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
{{- '}\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- elif message.role != 'system' or not loop.first -%}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""

LLAMA2 = (
    _ROLES
    + _SYSTEM_IN_USER
    + r"""
{%- for message in messages -%}
{{- refuse(message, 'llama2') -}}
{%- if message.role == 'user' -%}
{{- bos_token + '[INST] ' -}}
{%- if ns.system -%}{{- '<<SYS>>\n' + ns.system + '\n<</SYS>>\n\n' -}}{%- set ns.system = '' -%}{%- endif -%}
{{- message.content + ' [/INST]' -}}
{%- elif message.role == 'assistant' -%}
{{- ' ' + message.content + ' ' + eos_token -}}
{%- elif not loop.first -%}
{{- raise_exception('the llama2 template takes a system turn only at the start') -}}
{%- endif -%}
{%- endfor -%}
"""
)

LLAMA3 = r"""
{%- set ns = namespace(system='', tools=false) -%}
{%- if messages and messages[0].role == 'system' -%}{%- set ns.system = messages[0].content | trim -%}{%- endif -%}
{{- bos_token -}}
{%- if tools or ns.system -%}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' -}}
{%- if tools -%}
{{- 'Environment: ipython\n\nYou have access to the following functions. To call one, answer with JSON in the form ' -}}
{{- '{"name": function name, "parameters": dictionary of argument names and values}.\n\n' -}}
{%- for tool in tools -%}{{- tool | tojson + '\n\n' -}}{%- endfor -%}
{%- endif -%}
{{- ns.system + '<|eot_id|>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' -}}
{%- elif message.role == 'assistant' -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' + message.content | trim -}}
{%- for call in message.tool_calls or [] -%}
{%- if message.content or not loop.first -%}{{- '\n' -}}{%- endif -%}
{{- '{"name": ' + call.function.name | tojson + ', "parameters": ' -}}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}{{- '}' -}}
{%- endfor -%}
{{- '<|eot_id|>' -}}
{%- elif message.role != 'system' or not loop.first -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}
"""

MISTRAL = (
    _SYSTEM_IN_USER
    + r"""
{{- bos_token -}}
{%- if tools -%}{{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' -}}{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{- '[INST] ' + (ns.system + '\n\n' if ns.system else '') + message.content + '[/INST]' -}}
{%- set ns.system = '' -%}
{%- elif message.role == 'tool' -%}
{{- '[TOOL_RESULTS] ' + {'content': message.content, 'call_id': message.tool_call_id} | tojson + '[/TOOL_RESULTS]' -}}
{%- elif message.role == 'assistant' -%}
{%- if message.content -%}{{- ' ' + message.content -}}{%- endif -%}
{%- if message.tool_calls -%}
{{- '[TOOL_CALLS] [' -}}
{%- for call in message.tool_calls -%}
{{- '{"name": ' + call.function.name | tojson + ', "arguments": ' -}}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
{%- if call.id -%}{{- ', "id": ' + call.id | tojson -}}{%- endif -%}
{{- '}' + ('' if loop.last else ', ') -}}
{%- endfor -%}
{{- ']' -}}
{%- endif -%}
{{- eos_token -}}
{%- elif not loop.first -%}
{{- raise_exception('the mistral template takes a system turn only at the start') -}}
{%- endif -%}
{%- endfor -%}
"""
)

GEMMA = (
    _ROLES
    + _SYSTEM_IN_USER
    + r"""
{{- bos_token -}}
{%- for message in messages -%}
{{- refuse(message, 'gemma') -}}
{%- if message.role == 'user' -%}
{{- '<start_of_turn>user\n' + (ns.system + '\n\n' if ns.system else '') + message.content | trim + '<end_of_turn>\n' -}}
{%- set ns.system = '' -%}
{%- elif message.role == 'assistant' -%}
{{- '<start_of_turn>model\n' + message.content | trim + '<end_of_turn>\n' -}}
{%- elif not loop.first -%}
{{- raise_exception('the gemma template takes a system turn only at the start') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}
"""
)

PHI = (
    _ROLES
    + r"""
{%- for message in messages -%}
{{- refuse(message, 'phi') -}}
{{- '<|' + message.role + '|>\n' + message.content + '<|end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}
"""
)

ZEPHYR = (
    _ROLES
    + r"""
{%- for message in messages -%}
{{- refuse(message, 'zephyr') -}}
{{- '<|' + message.role + '|>\n' + message.content + eos_token + '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}
"""
)

GRANITE = r"""
{%- if tools -%}
{{- '<|start_of_role|>tools<|end_of_role|>' + tools | tojson(indent=4) + '<|end_of_text|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|start_of_role|>' + ('tool_response' if message.role == 'tool' else message.role) + '<|end_of_role|>' -}}
{{- message.content -}}
{%- if message.tool_calls -%}
{{- '<|tool_call|>[' -}}
{%- for call in message.tool_calls -%}
{{- '{"name": ' + call.function.name | tojson + ', "arguments": ' -}}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
{{- '}' + ('' if loop.last else ', ') -}}
{%- endfor -%}
{{- ']' -}}
{%- endif -%}
{{- '<|end_of_text|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_of_role|>assistant<|end_of_role|>' -}}{%- endif -%}
"""

GRANITE_7B = (
    _ROLES
    + r"""
{%- for message in messages -%}
{{- refuse(message, 'granite-7b') -}}
{{- '<|' + message.role + '|>\n' + message.content + ('<|endoftext|>' if message.role == 'assistant' else '') + '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}
"""
)

DEEPSEEK = (
    _ROLES
    + r"""
{{- bos_token -}}
{%- for message in messages -%}
{{- refuse(message, 'deepseek') -}}
{%- if message.role == 'user' -%}{{- '<｜User｜>' + message.content -}}
{%- elif message.role == 'assistant' -%}{{- '<｜Assistant｜>' + message.content + eos_token -}}
{%- else -%}{{- message.content -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<｜Assistant｜>' -}}{%- endif -%}
"""
)

ALPACA = (
    _ROLES
    + r"""
{%- for message in messages -%}
{{- refuse(message, 'alpaca') -}}
{%- if message.role == 'user' -%}{{- '### Instruction:\n' + message.content + '\n\n' -}}
{%- elif message.role == 'assistant' -%}{{- '### Response:\n' + message.content + eos_token + '\n\n' -}}
{%- else -%}{{- message.content + '\n\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '### Response:\n' -}}{%- endif -%}
"""
)

VICUNA = (
    _ROLES
    + r"""
{%- for message in messages -%}
{{- refuse(message, 'vicuna') -}}
{%- if message.role == 'user' -%}{{- 'USER: ' + message.content -}}
{%- elif message.role == 'assistant' -%}{{- ' ASSISTANT: ' + message.content + eos_token -}}
{%- else -%}{{- message.content + ' ' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ' ASSISTANT:' -}}{%- endif -%}
"""
)

PLAIN = (
    _ROLES
    + r"""
{%- for message in messages -%}
{{- refuse(message, 'plain') -}}
{%- if message.role == 'user' -%}{{- 'User: ' + message.content + '\n' -}}
{%- elif message.role == 'assistant' -%}{{- 'Assistant: ' + message.content + eos_token + '\n' -}}
{%- else -%}{{- message.content + '\n\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""
)

CONCAT = (
    _ROLES
    + r"""
{%- for message in messages -%}
{{- refuse(message, 'concat') -}}
{{- message.content + (eos_token if message.role == 'assistant' else '') -}}
{%- endfor -%}
"""
)

NAMED: dict[str, str] = {
    "chatml": CHATML,
    "qwen": QWEN,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi": PHI,
    "zephyr": ZEPHYR,
    "granite": GRANITE,
    "granite-7b": GRANITE_7B,
    "deepseek": DEEPSEEK,
    "alpaca": ALPACA,
    "vicuna": VICUNA,
    "plain": PLAIN,
    "concat": CONCAT,
}
"""Name -> Jinja source. `plain`: roles as words, for bases without a format; `concat`: prompt and answer, bare."""
