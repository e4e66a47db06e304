"""Miniature folders of the published benchmarks, in their owners' formats, down to file names.

Each function fills a folder with a split's files, and returns what the rows must be.
"""

import json
import pathlib

import malformed_files as found
import video_files

VOTES = ["net", "net", "net", "netting", "net", "net", "mesh", "net", "net", "net"]


def write(folder: pathlib.Path, path: str, value) -> None:
    """Writes JSON, or JSON lines if `value` is a tuple."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value) if not isinstance(value, tuple) else
                    "".join(json.dumps(line) + "\n" for line in value))  # fmt: skip


def images(folder: pathlib.Path, *paths: str) -> None:
    """Writes image files, the first of seed 0."""
    for seed, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(found.jpeg(seed))


def coco(folder):
    """Karpathy's splits; two of the three images are of train."""
    names = [("val2014", 391895, "restval"), ("train2014", 57870, "train"),
             ("val2014", 184613, "test")]  # fmt: skip
    rows = []
    for number, (place, image_id, split) in enumerate(names):
        sentences = [
            {"tokens": ["a", "man"], "raw": f"A man {number} {n}. ", "imgid": number,
             "sentid": 10 * number + n}
            for n in range(2)
        ]  # fmt: skip
        rows.append({
            "filepath": place, "sentids": [10 * number, 10 * number + 1],
            "filename": f"COCO_{place}_{image_id:012d}.jpg", "imgid": number, "split": split,
            "sentences": sentences, "cocoid": image_id,
        })  # fmt: skip
    write(folder, "dataset_coco.json", {"images": rows, "dataset": "coco"})
    images(folder, *(f"{row['filepath']}/{row['filename']}" for row in rows))


def coco_official(folder):
    """captions_val2014.json; the captions are not in the order of the images."""
    rows = [
        {"license": 3, "file_name": f"COCO_val2014_{number:012d}.jpg", "height": 40, "width": 48,
         "coco_url": f"http://images.cocodataset.org/val2014/COCO_val2014_{number:012d}.jpg",
         "date_captured": "2013-11-14 11:18:45", "flickr_url": "", "id": number}
        for number in (391895, 522418)
    ]  # fmt: skip
    captions = [
        {"image_id": 522418, "id": 2, "caption": "A woman cuts a cake."},
        {"image_id": 391895, "id": 770337, "caption": "A man on a moped. "},
        {"image_id": 522418, "id": 4, "caption": "A white cake."},
    ]
    info = {"description": "COCO 2014 Dataset", "version": "1.0", "year": 2014}
    value = {"info": info, "images": rows, "licenses": [], "annotations": captions}
    write(folder, "annotations/captions_val2014.json", value)
    images(folder, *(f"images/val2014/{row['file_name']}" for row in rows))


def flickr30k(folder):
    """Two of the three images are of test."""
    names = [(1000092795, "train"), (1007129816, "test"), (36979, "test")]
    rows = [
        {"sentids": [0, 1], "imgid": number, "split": split, "filename": f"{name}.jpg",
         "sentences": [{"tokens": [], "raw": f"Two dogs {n}.", "imgid": number, "sentid": n}
                       for n in range(2)]}
        for number, (name, split) in enumerate(names)
    ]  # fmt: skip
    write(folder, "karpathy/dataset_flickr30k.json", {"images": rows, "dataset": "flickr30k"})
    images(folder, "flickr30k_images/1007129816.jpg", "flickr30k_images/36979.jpg")


def nocaps(folder):
    domains = ["in-domain", "near-domain", "out-domain"]
    rows = [
        {"id": number, "open_images_id": f"0013ea208702090{number}", "height": 40, "width": 48,
         "coco_url": f"https://s3.amazonaws.com/nocaps/val/0013ea208702090{number}.jpg",
         "file_name": f"0013ea208702090{number}.jpg", "license": 0,
         "date_captured": "2018-11-06 11:04:33", "domain": domain}
        for number, domain in enumerate(domains)
    ]  # fmt: skip
    captions = [
        {"image_id": number, "id": 10 * number + n, "caption": f"A baby {number} {n}."}
        for number in range(3)
        for n in range(10)
    ]
    info = {"url": "http://nocaps.org", "version": "0.1", "contributor": "nocaps team"}
    value = {"licenses": [], "info": info, "images": rows, "annotations": captions}
    write(folder, "nocaps_val_4500_captions.json", value)
    images(folder, *(f"validation/{row['file_name']}" for row in rows))


def vqa_v2(folder):
    """Three questions about two images; one of the first image comes last."""
    rows = [(262148, 262148000, "Where is he looking?"), (393225, 393225000, "What is it?"),
            (262148, 262148001, "What are the people doing?")]  # fmt: skip
    common = {
        "info": {"version": "2.0"},
        "data_type": "mscoco",
        "data_subtype": "val2014",
        "license": {},
    }
    questions = [{"image_id": i, "question": text, "question_id": q} for i, q, text in rows]
    annotations = [
        {"question_type": "what is", "multiple_choice_answer": "net", "image_id": i,
         "answers": [{"answer": text, "answer_confidence": "yes", "answer_id": n}
                     for n, text in enumerate(VOTES, 1)],
         "answer_type": "other", "question_id": q}
        for i, q, _ in rows[::-1]
    ]  # fmt: skip
    write(folder, "v2_OpenEnded_mscoco_val2014_questions.json",
          common | {"task_type": "Open-Ended", "questions": questions})  # fmt: skip
    write(folder, "v2_mscoco_val2014_annotations.json", common | {"annotations": annotations})
    images(folder, *(f"val2014/COCO_val2014_{i:012d}.jpg" for i in (262148, 393225)))


def _genome_images(folder):
    base = "https://cs.stanford.edu/people/rak248"
    rows = [
        {"width": 48, "url": f"{base}/{place}/{number}.jpg", "height": 40, "image_id": number,
         "coco_id": None, "flickr_id": None}
        for place, number in [("VG_100K_2", 1), ("VG_100K", 2), ("VG_100K", 3)]
    ]  # fmt: skip
    write(folder, "image_data.json", rows)
    images(folder, "VG_100K_2/1.jpg", "VG_100K/2.jpg")


def visual_genome(folder):
    _genome_images(folder)
    rows = [
        {"regions": [
            {"region_id": 1382 + n, "width": 20, "height": 10, "image_id": number, "x": 4, "y": n,
             "phrase": f"the clock is green {number} {n}"} for n in range(2)],
         "id": number}
        for number in (1, 2)
    ]  # fmt: skip
    write(folder, "region_descriptions.json", rows)


def visual_genome_vqa(folder):
    """The third image has no question."""
    _genome_images(folder)
    rows = [
        {"id": number, "qas": [
            {"a_objects": [], "question": "What color is the clock?", "image_id": number,
             "qa_id": 986768 + number, "answer": "Green.", "q_objects": []}][: 3 - number]}
        for number in (1, 2, 3)
    ]  # fmt: skip
    write(folder, "question_answers.json", rows)


def visdial(folder):
    """Two dialogs of two rounds with four options; one round has dense annotations."""
    rounds = [
        {"question": 0, "answer": 1, "gt_index": 2, "answer_options": [0, 3, 1, 2]},
        {"question": 1, "answer": 3, "gt_index": 0, "answer_options": [3, 2, 1, 0]},
    ]
    data = {
        "questions": ["is it sunny", "any people"],
        "answers": ["no", "yes", "maybe", "2 men"],
        "dialogs": [
            {"image_id": 185565, "caption": "a bus on a street", "dialog": rounds},
            {"image_id": 284024, "caption": "a dog", "dialog": rounds},
        ],
    }
    write(folder, "visdial_1.0_val.json", {"version": "1.0", "split": "val2018", "data": data})
    dense = [{"image_id": 185565, "round_id": 2, "gt_relevance": [1.0, 0.4, 0.0, 0.0]}]
    write(folder, "visdial_1.0_val_dense_annotations.json", dense)
    place = "VisualDialog_val2018"
    images(folder, *(f"{place}/{place}_000000{number}.jpg" for number in (185565, 284024)))


def nlvr2(folder):
    """Two statements of one pair, and one of them about another pair of the set."""
    rows = [("train-850-0-0", "A dog.", "False"), ("train-850-2-0", "A dog.", "True"),
            ("train-850-0-1", "Two cats.", "True")]  # fmt: skip
    write(folder, "data/train.json", tuple(
        {"validation": {"61": label}, "sentence": text, "left_url": "https://a.b/l.jpg",
         "writer": "61", "label": label, "right_url": "https://a.b/r.jpg", "synset": "dog",
         "query": "some dogs38", "identifier": name, "directory": 10}
        for name, text, label in rows))  # fmt: skip
    pairs = [f"train-850-{pair}-img{side}.png" for pair in (0, 2) for side in (0, 1)]
    images(folder, *(f"images/train/10/{name}" for name in pairs))


def clips(folder: pathlib.Path, *paths: str) -> None:
    """Writes files of clips, the first of 2 frames, the next of 3, …"""
    for seed, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        kind = {"format": "avi", "codec": "mpeg4"} if path.endswith(".avi") else {}
        (folder / path).write_bytes(video_files.make(2 + seed, **kind))


def msrvtt(folder):
    """Two of the three clips are of train; the captions are not in the order of the clips."""
    rows = [(2960, "train"), (6513, "validate"), (0, "train")]
    videos = [
        {"category": 9, "url": "https://www.youtube.com/watch?v=9lZi22qLlEo", "id": number,
         "video_id": f"video{number}", "start time": 137.72, "end time": 149.44, "split": split}
        for number, split in rows
    ]  # fmt: skip
    sentences = [
        {"caption": f"a car is shown {number} {n}", "video_id": f"video{number}", "sen_id": n}
        for n in range(2)
        for number, _ in rows[::-1]
    ]
    info = {"contributor": "Microsoft MSM group", "version": "1.0", "year": "2016"}
    value = {"info": info, "videos": videos, "sentences": sentences}
    write(folder, "train_val_videodatainfo.json", value)
    clips(folder, "TrainValVideo/video2960.mp4", "TrainValVideo/video0.mp4")


def msrvtt_1k_a(folder):
    """The list of 1,000 clips of test, as CSV and as BLIP's."""
    lines = ["key,vid_key,video_id,sentence", 'ret0,msr9770,video9770,"a person, connecting"',
             "ret1,msr7010,video7010,a dog"]  # fmt: skip
    (folder / "annotation").mkdir(parents=True)
    (folder / "annotation" / "MSRVTT_JSFUSION_test.csv").write_text("\r\n".join(lines) + "\r\n")
    write(folder, "msrvtt_test.jsonl", (
        {"clip_name": "video9770", "retrieval_key": "ret0", "caption": "a person, connecting"},
        {"clip_name": "video7010", "retrieval_key": "ret1", "caption": "a dog"},
    ))  # fmt: skip
    clips(folder, "videos/all/video9770.mp4", "videos/all/video7010.mp4")


def msrvtt_qa(folder):
    """Three questions about two clips; one of the first clip comes last."""
    rows = [(7010, "what is a man doing?", "sing"), (7012, "who is cooking?", "woman"),
            (7010, "what is shown?", "stage")]  # fmt: skip
    write(folder, "test_qa.json", [
        {"answer": answer, "category_id": 14, "id": 170859 + n, "question": question,
         "video_id": number}
        for n, (number, question, answer) in enumerate(rows)
    ])  # fmt: skip
    clips(folder, "TestVideo/video7010.mp4", "TestVideo/video7012.mp4")


def msvd_qa(folder):
    names = {1451: "-4wsuPCjDBc_5_15", 1452: "-7KMZQEsJW4_205_208"}
    lines = "".join(f"{name} vid{number}\n" for number, name in names.items())
    folder.mkdir(exist_ok=True)
    (folder / "youtube_mapping.txt").write_text(lines)
    write(folder, "test_qa.json", [
        {"answer": "someone", "id": 37348 + n, "question": "who does something?",
         "video_id": number}
        for n, number in enumerate(names)
    ])  # fmt: skip
    clips(folder, *(f"YouTubeClips/{name}.avi" for name in names.values()))


# benchmark -> (the function that makes its folder, the split, the file that is read first, an image
# or clip of the first record, how many records there are).
FOLDERS = {
    "coco": (coco, "train", "dataset_coco.json", "val2014/COCO_val2014_000000391895.jpg", 2),
    "flickr30k": (flickr30k, "test", "karpathy/dataset_flickr30k.json",
                  "flickr30k_images/1007129816.jpg", 2),
    "msrvtt": (msrvtt, "train", "train_val_videodatainfo.json", "TrainValVideo/video2960.mp4", 2),
    "msrvtt_qa": (msrvtt_qa, "test", "test_qa.json", "TestVideo/video7010.mp4", 2),
    "msvd_qa": (msvd_qa, "test", "test_qa.json", "YouTubeClips/-4wsuPCjDBc_5_15.avi", 2),
    "nlvr2": (nlvr2, "train", "data/train.json", "images/train/10/train-850-0-img1.png", 2),
    "nocaps": (nocaps, "val", "nocaps_val_4500_captions.json",
               "validation/0013ea2087020900.jpg", 3),
    "visdial": (visdial, "val", "visdial_1.0_val.json",
                "VisualDialog_val2018/VisualDialog_val2018_000000185565.jpg", 2),
    "visual_genome": (visual_genome, "train", "region_descriptions.json", "VG_100K_2/1.jpg", 2),
    "visual_genome_vqa": (visual_genome_vqa, "train", "question_answers.json",
                          "VG_100K_2/1.jpg", 2),
    "vqa_v2": (vqa_v2, "val", "v2_OpenEnded_mscoco_val2014_questions.json",
               "val2014/COCO_val2014_000000262148.jpg", 2),
}  # fmt: skip
