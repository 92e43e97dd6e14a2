"""Every text of the panel, in English and Chinese, in one place; messages of errors stay as svdkit writes them."""

from __future__ import annotations

LANGUAGES = {"en": "English", "zh": "中文"}

# name -> (English, Chinese). {words} in braces are filled in.
TEXTS: dict[str, tuple[str, str]] = {
    "title": ("Photo to clip", "照片变视频"),
    "title_micro": (
        "The built-in model <b>micro</b>: it shows how everything works, not how good a clip can look.",
        "内置模型 <b>micro</b>：用来演示各项功能，不代表实际画质。",
    ),
    "title_random": (
        "Random weights: time and memory are real, the clip is noise.",
        "随机权重：时间和内存/显存是真实的，画面只是噪声。",
    ),
    "language": ("Language", "语言"),
    "too_large": (
        (
            "is larger than 9 MB, which this connection does not carry. Copy it to the machine that runs this and give "
            "its path below, or make it smaller."
        ),
        "超过 9 MB，此连接无法传输。请先复制到运行此程序的机器上并在下面填写路径，或缩小图片。",
    ),
    # photo
    "sample": ("Sample", "示例"),
    "upload": ("Upload a photo", "上传照片"),
    "upload_hint": (
        "JPEG, PNG, WebP, HEIC, up to 9 MB. A larger one: copy it to the machine that runs this, and give its path.",
        "JPEG、PNG、WebP、HEIC，不超过 9 MB。更大的文件请先复制到运行此程序的机器上，再在下面填写路径。",
    ),
    "source": ("Path or address", "路径或网址"),
    "source_hint": ("holiday.jpg or https://…", "holiday.jpg 或 https://…"),
    "fit_mode": ("Fit", "适配方式"),
    "crop": ("crop: fill the frame, cut the rest", "裁剪：填满画面，多余的剪掉"),
    "pad": ("pad: keep all, add borders", "填充：保留全部，补上边缘"),
    "stretch": ("stretch: distort to fit", "拉伸：变形以适应"),
    "size": ("Size", "尺寸"),
    "landscape": ("landscape {height}×{width}", "横向 {height}×{width}"),
    "portrait": ("portrait {height}×{width}", "纵向 {height}×{width}"),
    "square": ("square {height}×{width}", "方形 {height}×{width}"),
    "own_size": ("own: set height and width below", "自定义：在下面设置高和宽"),
    "focus_x": ("Focus, across", "焦点（横向 %）"),
    "focus_y": ("Focus, down", "焦点（纵向 %）"),
    "focus_hint": (
        "The bright part is what the model sees. Click the picture, or move the focus, to choose it.",
        "模型只看到明亮的部分。点击图片或移动焦点来选择。",
    ),
    "reading": ("Reading the photo …", "正在读取照片……"),
    "still_reading": ("The photo is still being read; start when you see it.", "照片还在读取，看到后再开始。"),
    "nothing_cut": ("Nothing is cut.", "没有裁掉任何内容。"),
    "photo_alt": ("The photo, with what will be cut in the shade", "照片，阴影部分会被裁掉"),
    # settings
    "settings": ("Settings", "设置"),
    "advanced": ("More settings", "更多设置"),
    "preset": ("Preset", "预设"),
    "preset_own": ("the model's own defaults", "模型自身的默认值"),
    "preset_custom": ("changed by hand", "手动修改"),
    "motion_bucket_id": ("Motion", "运动幅度"),
    "num_inference_steps": ("Steps", "步数"),
    "seed": ("Seed", "种子"),
    "fps": ("fps for the model", "给模型的帧率"),
    "min_guidance_scale": ("Guidance, first", "引导（首帧）"),
    "max_guidance_scale": ("Guidance, last", "引导（末帧）"),
    "noise_aug_strength": ("Noise on photo", "照片加噪"),
    "num_frames": ("Frames", "帧数"),
    "decode_chunk_size": ("Decode chunk", "每次解码帧数"),
    "playback_fps": ("Playback fps", "播放帧率"),
    "height": ("Height", "高"),
    "width": ("Width", "宽"),
    "dice": ("New seed", "换一个种子"),
    "lock": ("keep seed", "固定种子"),
    "tip_motion_bucket_id": (
        "motion_bucket_id: how much should move. {curve} High values also break more.",
        "motion_bucket_id：画面运动的幅度。{curve} 数值越高也越容易崩坏。",
    ),
    "curve_micro": (
        "Measured on micro: {low} of the width a second at bucket 20, {high} at 240.",
        "在 micro 上实测：bucket 为 20 时每秒移动画面宽度的 {low}，240 时为 {high}。",
    ),
    "tip_num_inference_steps": (
        "num_inference_steps: denoising time grows with it, one for one. 25 is usual; after that little changes.",
        "num_inference_steps：去噪时间与之成正比。通常取 25，再多变化不大。",
    ),
    "tip_seed": (
        "seed: where chance begins. Another seed often changes more than any setting; try three.",
        "seed：随机的起点。换种子的影响往往大于任何设置，至少试三个。",
    ),
    "tip_fps": (
        "fps: the speed that the motion is made for; the network is told one less. It does not change the file.",
        "fps：告诉模型按什么帧率设计运动（网络实际收到的数少 1），不改变文件的播放速度。",
    ),
    "tip_min_guidance_scale": (
        "min_guidance_scale: how strictly the first frame follows the photo. 1 is free, 3 is firm.",
        "min_guidance_scale：首帧贴近照片的程度，1 较自由，3 较严格。",
    ),
    "tip_max_guidance_scale": (
        "max_guidance_scale: the same for the last frame. 1 for both switches guidance off and halves the denoising.",
        "max_guidance_scale：末帧的引导强度。两者都为 1 即关闭引导，去噪时间减半。",
    ),
    "tip_noise_aug_strength": (
        "noise_aug_strength: noise on the photo before the network sees it. More lets go of the photo and moves more.",
        "noise_aug_strength：先给照片加的噪声。越大越不拘泥于照片，也动得越多。",
    ),
    "tip_num_frames": (
        "num_frames: frames of the clip. Far from the {own} that this model was trained on, it falls apart.",
        "num_frames：帧数。离训练时的 {own} 帧太远，画面会崩坏。",
    ),
    "tip_decode_chunk_size": (
        "decode_chunk_size: frames decoded at once. Smaller needs less memory, and looks the same but for flicker.",
        "decode_chunk_size：一次解码几帧。越小越省显存，画面几乎不变，可能略有闪烁。",
    ),
    "tip_playback_fps": (
        "playback_fps: how fast the file plays. It does not reach the network.",
        "playback_fps：文件的播放速度，与网络无关。",
    ),
    "tip_height": ("height in pixels, a multiple of 8", "高（像素），8 的倍数"),
    "tip_width": ("width in pixels, a multiple of 8", "宽（像素），8 的倍数"),
    # before
    "outlook": ("What it will take", "预计开销"),
    "price": ("{currency} an hour", "每小时价格 {currency}"),
    "time_known": ("about <b>{seconds}</b> ({low} to {high})", "约 <b>{seconds}</b>（{low} 到 {high}）"),
    "time_unknown": (
        "time: known after the first clip on this machine",
        "时间：在本机生成第一段视频后即可预计",
    ),
    "memory": ("<b>{needed}</b> of {has} memory", "内存/显存 <b>{needed}</b>，共 {has}"),
    "memory_only": ("<b>{needed}</b> of memory", "内存/显存 <b>{needed}</b>"),
    "money": ("<b>{money}</b> a clip", "每段 <b>{money}</b>"),
    "source_of": ("from {source}", "依据：{source}"),
    "counting": (
        "this size has never been counted: that takes some seconds, in the background",
        "这个尺寸还没有统计过，正在后台统计，需要几秒",
    ),
    "counting_foreground": (
        "this size has never been counted: that takes some seconds; move a slider then, to see what came out",
        "这个尺寸还没有统计过，需要几秒；之后动一下滑块即可看到结果",
    ),
    "not_counted": (
        "no forecast: counting this size failed; `svdkit forecast` says why",
        "无法预计：统计这个尺寸失败，运行 `svdkit forecast` 可查看原因",
    ),
    "no_forecast": ("no forecast: {why}", "无法预计：{why}"),
    "will_not_fit": ("This will probably run out of memory.", "很可能内存/显存不足。"),
    "apply_fit": ("Use what fits: {what}", "改用放得下的设置：{what}"),
    # running
    "start": ("Make the clip", "生成视频"),
    "drafts": ("4 quick drafts", "4 个快速草稿"),
    "drafts_tip": (
        "four seeds with {steps} steps each, to choose one from",
        "四个种子，各 {steps} 步，从中挑选",
    ),
    "small_drafts": ("half size (faster, but may move otherwise)", "半尺寸（更快，但运动可能不同）"),
    "stop": ("Stop", "停止"),
    "starting": ("starting", "正在开始"),
    "waiting": ("waiting: {place} ahead of you", "排队中：前面还有 {place} 个"),
    "loading": ("loading the model", "正在加载模型"),
    "encode": ("reading the photo", "读取照片"),
    "denoise": ("denoising", "去噪"),
    "decode": ("making frames", "解码画面"),
    "progress": ("{stage}: {step} of {steps}, {left}", "{stage}：{step}/{steps}，{left}"),
    "left": ("about {seconds} left in this stage", "此阶段约剩 {seconds}"),
    "left_unknown": ("estimating", "估算中"),
    "draft_of": ("draft {number} of {count}", "草稿 {number}/{count}"),
    "stopping": ("stopping after this step", "这一步完成后停止"),
    "stopping_decode": (
        "stopping after this chunk of frames: what is being decoded cannot be interrupted",
        "这一块画面解码完后停止：解码中途无法打断",
    ),
    "stopping_encode": (
        "stopping as soon as the photo is read: that cannot be interrupted",
        "读完照片后停止：这一步无法打断",
    ),
    "stopping_load": (
        "stopping once the model is loaded: loading cannot be interrupted",
        "模型加载完后停止：加载无法打断",
    ),
    "stop_foreground": (
        "Here a run is stopped by interrupting the kernel (on Colab: Runtime, Interrupt execution).",
        "此环境通过中断内核来停止运行（Colab：代码执行程序 → 中断执行）。",
    ),
    "stopped": ("Stopped. Nothing was kept; the settings are as they were.", "已停止，没有保留结果，设置不变。"),
    "stopped_part": (
        "Stopped. What was finished before is below; the settings are as they were.",
        "已停止。之前完成的在下面，设置不变。",
    ),
    "ready": ("Ready.", "就绪。"),
    "done": ("Done in {seconds}.", "完成，用时 {seconds}。"),
    "idle_loading": ("The model is being loaded; you can choose a photo meanwhile.", "模型加载中，可以先选照片。"),
    "picture_alt": ("What the clip looks like so far", "目前的画面"),
    "failed": ("This did not work", "操作失败"),
    # after
    "empty": ("The clip will be here.", "视频会显示在这里。"),
    "made": (
        (
            "#{number} {model} · motion {motion_bucket_id} · steps {num_inference_steps} · seed {seed} · "
            "frames {num_frames} · {fps} fps"
        ),
        (
            "#{number} {model} · 运动 {motion_bucket_id} · {num_inference_steps} 步 · 种子 {seed} · "
            "{num_frames} 帧 · {fps} fps"
        ),
    ),
    "download": ("Download the clip", "下载视频"),
    "save": ("Save to {folder}", "保存到 {folder}"),
    "saved": ("Saved as {path}", "已保存为 {path}"),
    "code": ("As Python code", "Python 代码"),
    "sweep": ("As a sweep file", "批量实验文件"),
    "copy": ("Copy", "复制"),
    "history": ("Clips made here", "已生成的视频"),
    "compare": ("Compare the chosen ones", "对比所选"),
    "show_again": ("Show the chosen one", "显示所选"),
    "compare_hint": (
        "Choose two or more clips to compare them in step, or one to save or download it.",
        "选择两个或更多视频可同步对比，选择一个可保存或下载。",
    ),
    "finish": ("Finish seed {seed}", "用种子 {seed} 完成"),
    "forget": ("Clear photo and clips", "清除照片和视频"),
    "forget_tip": (
        "takes the photo and all clips off this page, so that none is saved with the notebook",
        "从页面清除照片和所有视频，使其不会随笔记本保存",
    ),
    "saved_note": (
        (
            "Where a notebook saves what its widgets show (Colab does, JupyterLab when told to), clear photo and clips "
            "before you share it."
        ),
        "如果笔记本会保存控件里显示的内容（Colab 会，JupyterLab 需手动开启），分享前请先清除照片和视频。",
    ),
}

# The texts of the synchronised player, which is English in notebooks and reports.
PLAYER = {
    "en": "zh",
    "Synchronised clips": "同步播放",
    "Playback": "播放控制",
    "▶ Play": "▶ 播放",
    "❚❚ Pause": "❚❚ 暂停",
    "Play or pause (Space)": "播放或暂停（空格）",
    "Frame": "帧",
    "One frame back (Left arrow)": "后退一帧（左方向键）",
    "One frame on (Right arrow)": "前进一帧（右方向键）",
    "Loop": "循环",
    "Repeat (L)": "循环播放（L）",
    "Speed": "速度",
    "Zoom": "缩放",
    "Compare with": "对比",
    "nothing": "无",
    "Split": "分割线",
    "this browser cannot play the clip": "此浏览器无法播放该视频",
    (
        "Keys: Space plays, ← → step, Home and End jump, L repeats, + − zoom; drag a zoomed clip to move it (or Shift "
        "with an arrow)."
    ): "按键：空格播放，← → 逐帧，Home 和 End 跳转，L 循环，+ − 缩放；放大后可拖动画面（或按住 Shift 加方向键）。",
}
