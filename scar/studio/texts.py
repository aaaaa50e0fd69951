"""The words of the interface in English and Chinese; the browser picks the language.

The English sentence is the key, so the code reads as the page does.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

CHINESE = {
    "Edit": "编辑",
    "Control to image": "控制图生成",
    "Compare": "对比",
    "About": "关于",
    "Picture": "图片",
    "Drop a picture here\nor click to choose one": "把图片拖到这里\n或点击选择",
    "Drop a picture": "拖入图片",
    "Surprise me": "随机示例",
    "What should change?": "想改变什么？",
    "Edit the picture": "编辑图片",
    "Stop": "停止",
    "Region": "区域",
    "Paint what may change; outside, every pixel stays as it is.": "涂出可修改处；其余保持原样。",
    "Use as input": "用作输入",
    "Undo": "撤销",
    "Redo": "重做",
    "Download": "下载",
    "Advanced": "高级设置",
    "Model": "模型",
    "Loads when it is chosen.": "选择后加载。",
    "Seed": "随机种子",
    "Same picture, words and seed: same result.": "相同的图片、文字和种子得到相同的结果。",
    "New seed every run": "每次使用新种子",
    "Guidance": "引导强度",
    "Changes too little? Raise it. Too much? Lower it.": "变化太小就调高；太强就调低。",
    "Temperature": "温度",
    "Messy? Lower it. Every run the same? Raise it.": "杂乱就调低；每次都一样就调高。",
    "Top k": "Top k",
    "Draw from the k likeliest tokens; 0 means all.": "从概率最高的 k 个词元中抽取；0 表示全部。",
    "Top p": "Top p",
    "Draw from the likeliest tokens that sum to p.": "从累计概率达到 p 的词元中抽取。",
    "Variants": "变体数量",
    "Pictures in one run, from seeds that follow.": "一次生成的图片数，种子依次递增。",
    "Live preview": "实时预览",
    "Map": "控制图",
    "Say it with a": "描述方式",
    "What should it show?": "画面里应该有什么？",
    "Class": "类别",
    "Generate": "生成",
    "Seed of both sides": "两侧共用的种子",
    "Model, left": "左侧模型",
    "Model, right": "右侧模型",
    "Guidance, left": "左侧引导强度",
    "Guidance, right": "右侧引导强度",
}

I18N = gr.I18n(**{"en": {words: words for words in CHINESE}, "zh": CHINESE, "zh-CN": CHINESE})


def say(words: str) -> Any:
    """`words` in the language of the browser; English where there is no translation."""
    return I18N(words) if words in CHINESE else words
